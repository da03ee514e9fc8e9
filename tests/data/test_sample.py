import io

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from halflabel import IGNORE_INDEX
from halflabel.data.loading import load_images
from halflabel.data.sample import LABEL_NAMES, SIZE, TEAMS, draw_scene, iterate_street_scenes, render_street_scene

SCENES = 400


@pytest.fixture(scope="module")
def scenes():
    """Pictures of the test split, all labels of which are known: pixels, sizes of files, and labels."""
    drawn = [render_street_scene("test", index) for index in range(SCENES)]
    files = [scene["image"]["bytes"] for scene in drawn]
    pixels = [np.asarray(Image.open(io.BytesIO(file)), float) for file in files]
    return pixels, [len(file) for file in files], np.array([scene["labels"] for scene in drawn])


def test_a_scene_depends_on_seed_split_and_number_alone():
    once = render_street_scene("train", 3)
    assert once == render_street_scene("train", 3)
    for other in (("train", 4, 0), ("test", 3, 0), ("train", 3, 1)):
        assert render_street_scene(*other)["image"]["bytes"] != once["image"]["bytes"]


def test_fewer_are_the_first_of_more():
    few, more = list(iterate_street_scenes(2, 1)), list(iterate_street_scenes(4, 3))
    assert few == [more[0], more[1], more[4]]


def test_a_team_answers_its_own_questions_and_the_test_split_is_known():
    for scene in iterate_street_scenes(30, 10):
        asked = TEAMS[scene["team"]] if scene["split"] == "train" else LABEL_NAMES
        for name, value in zip(LABEL_NAMES, scene["labels"], strict=True):
            assert (value != IGNORE_INDEX) == (name in asked)


def test_under_half_of_the_training_entries_are_known_and_each_label_has_yes_and_no_in_each_split():
    assert sum(len(asked) for asked in TEAMS.values()) / (len(TEAMS) * len(LABEL_NAMES)) < 0.5
    images = load_images("street_scenes", max_train_images=90, max_test_images=30)
    assert images.label_space.names == LABEL_NAMES
    assert 0.3 < (images.of_split("train").labels != IGNORE_INDEX).mean() < 0.5
    for split in ("train", "test"):
        labels = images.of_split(split).labels
        assert ((labels == 1).sum(axis=0) >= 3).all()
        assert ((labels == 0).sum(axis=0) >= 3).all()


def test_labels_go_together_as_in_streets_but_none_tells_another(scenes):
    labels = scenes[2]
    assert np.abs(labels.mean(axis=0) - (0.45, 0.5, 0.25, 0.3)).max() < 4 * 0.5 / np.sqrt(SCENES)
    together = np.corrcoef(labels.T)
    names = list(LABEL_NAMES)
    assert together[names.index("pedestrian"), names.index("traffic light")] > 0
    assert together[names.index("stop sign"), names.index("traffic light")] < 0
    assert np.abs(together - np.eye(len(names))).max() < 0.3


@pytest.mark.parametrize("cue", ["mean colour", "size of the file", "brightness, contrast and colourfulness"])
def test_nothing_but_what_is_drawn_gives_a_label_away(scenes, cue):
    """Chance is 0.5 ± 0.03 with 400 scenes, 12 times; and what is drawn does add a little colour and some edges."""
    pixels, sizes, labels = scenes
    if cue == "mean colour":
        values = np.array([picture.mean(axis=(0, 1)) for picture in pixels])
    elif cue == "size of the file":
        values = np.log(sizes)[:, None]
    else:
        values = np.array([(p.mean(), p.std(), np.ptp(p, axis=2).mean(), np.ptp(p, axis=2).std()) for p in pixels])
    for column, name in enumerate(LABEL_NAMES):
        model = make_pipeline(StandardScaler(), LogisticRegression())
        guessed = cross_val_predict(model, values, labels[:, column], cv=5, method="predict_proba")[:, 1]
        assert roc_auc_score(labels[:, column], guessed) < 0.65, name


@pytest.mark.parametrize("name", LABEL_NAMES)
def test_an_object_asked_for_is_drawn_and_nothing_else_changes(name):
    shares = []
    for seed in range(12):
        nothing = dict.fromkeys(LABEL_NAMES, 0)
        without, answers = draw_scene(f"{seed}", nothing)
        assert answers == nothing
        picture, answers = draw_scene(f"{seed}", {**nothing, name: 1})
        assert {key for key, value in answers.items() if value} <= {name}
        changed = np.abs(np.asarray(picture, int) - np.asarray(without, int)).max(axis=2) > 15
        assert answers[name] == changed.any()
        if answers[name]:
            shares.append(changed.mean())
    assert len(shares) >= 9
    assert 0.0005 < np.median(shares) < 0.3


def test_an_object_is_drawn_at_other_places_sizes_and_colours():
    places, colours = [], []
    for seed in range(12):
        without, _ = draw_scene(f"{seed}", dict.fromkeys(LABEL_NAMES, 0))
        picture, _ = draw_scene(f"{seed}", {**dict.fromkeys(LABEL_NAMES, 0), "car": 1})
        changed = np.abs(np.asarray(picture, int) - np.asarray(without, int)).max(axis=2) > 15
        rows, columns = np.nonzero(changed)
        places.append((columns.mean() / SIZE, changed.mean()))
        colours.append(np.asarray(picture)[changed].mean(axis=0))
    assert np.ptp([place for place, _ in places]) > 0.3
    sizes = [size for _, size in places]
    assert max(sizes) > 3 * min(sizes)
    assert np.ptp(colours, axis=0).min() > 40


def test_pictures_are_jpegs_of_one_size_whose_names_tell_nothing():
    scene = render_street_scene("test", 0)
    assert scene["file_name"] == scene["image"]["path"] == "street_test_00000.jpg"
    with Image.open(io.BytesIO(scene["image"]["bytes"])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (SIZE, SIZE))
