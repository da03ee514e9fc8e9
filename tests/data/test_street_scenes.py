import io

import numpy as np
import pytest
from PIL import Image

from halflabel import IGNORE_INDEX
from halflabel.data.loading import load_images
from halflabel.data.street_drawing import PREVALENCE, draw_scene, sample_labels
from halflabel.data.street_scenes import LABEL_NAMES, TEAMS, iterate_street_scenes, render_street_scene


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


def test_under_half_of_the_training_entries_are_known():
    assert sum(len(asked) for asked in TEAMS.values()) / (len(TEAMS) * len(LABEL_NAMES)) < 0.5
    images = load_images("street_scenes", max_train_images=60, max_test_images=4)
    assert 0.3 < (images.of_split("train").labels != IGNORE_INDEX).mean() < 0.5


def test_labels_are_as_frequent_as_stated():
    rng = np.random.default_rng(0)
    drawn = np.array([list(sample_labels(rng).values()) for _ in range(2000)])
    for share, expected in zip(drawn.mean(axis=0), PREVALENCE.values(), strict=True):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 2000)


@pytest.mark.parametrize("name", LABEL_NAMES)
def test_an_object_asked_for_is_drawn_and_nothing_else_changes_much(name):
    changed = []
    for seed in range(8):
        without, _ = draw_scene(np.random.default_rng(seed), labels=dict.fromkeys(LABEL_NAMES, 0))
        picture, found = draw_scene(np.random.default_rng(seed), labels={**dict.fromkeys(LABEL_NAMES, 0), name: 1})
        assert {key for key, value in found.items() if value} <= {name}
        difference = np.abs(np.asarray(picture, int) - np.asarray(without, int)).max(axis=2) > 15
        assert found[name] == difference.any()
        changed.append(difference.mean())
    assert 0.0005 < np.median(changed) < 0.4


def test_pictures_are_jpegs_of_the_asked_size():
    scene = render_street_scene("test", 0, size=128)
    with Image.open(io.BytesIO(scene["image"]["bytes"])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (128, 128))
