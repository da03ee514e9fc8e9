import json
import math
import random
import shutil

import numpy as np
import pytest
import torch
import unknown_runs as runs
import yaml
from forked import in_two_processes
from safetensors.torch import load_file
from unknown_runs import one_thread  # noqa: F401 - a fixture

from halflabel import HalflabelError, TimmMultiLabelImageProcessor
from halflabel.data.pixels import PixelDataset
from halflabel.model.labels import IGNORE_INDEX, UNCERTAIN
from halflabel.training.arguments import parse_recipe
from halflabel.training.building import make_trainer
from halflabel.training.preparation import prepare_data
from halflabel.training.probing import prepare_training
from halflabel.training.resuming import TRAINING_WEIGHTS
from halflabel.training.teacher import BINS, PLAIN, TwoViews, open_bins, ramp_up, to_bins

pytestmark = pytest.mark.usefixtures("one_thread")
TEACHER = {"ema_decay": 0.9, "teacher_weight": 2.0, "teacher_ramp": 0.5}


def kept(callbacks):
    return next(callback for callback in callbacks if isinstance(callback, runs.Keep)).histogram


def assert_near(found, expected, tolerance=1e-4):
    """Relative to how far the weights moved, as a whole."""
    start = runs.copies(runs.smooth_model())
    moved = torch.cat([(expected[name].double() - start[name].double()).flatten() for name in start])
    off = torch.cat([(found[name].double() - expected[name].double()).flatten() for name in start])
    assert moved.norm() > 1
    assert off.norm() / moved.norm() < tolerance


def known_everywhere(table):
    rows = [line.split(",") for line in table.read_text().splitlines()]
    table.write_text("\n".join(",".join(cell or "1" for cell in row) for row in rows) + "\n")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four steps, each on all rows at once."""
    seen, average, callbacks = runs.teach(tmp_path_factory.mktemp("whole"))
    assert len(seen) == runs.STEPS
    return {"student": seen[-1], "average": average, "histogram": kept(callbacks)}


def test_the_weight_rises_and_then_stays():
    assert ramp_up(0, 0.3) == pytest.approx(math.exp(-5))
    assert ramp_up(0.15, 0.3) == pytest.approx(math.exp(-1.25))
    assert ramp_up(0.3, 0.3) == ramp_up(0.9, 0.3) == ramp_up(0, 0) == 1


def test_logits_are_counted_in_tenths():
    found = to_bins(torch.tensor([-50.0, -12.0, -11.95, -0.05, 0.05, 11.95, 12.0, 50.0]))
    assert found.tolist() == [0, 0, 0, 119, 120, 239, 239, 239]


@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_of_each_label_the_surest_yes_and_no_teach_in_its_proportion(share):
    generator = np.random.default_rng(0)
    prevalence = [0.05, 0.5, 0.9]
    logits = np.stack([generator.normal(mean, 2, 2000) for mean in (-5, 0, 3)])
    histogram = torch.zeros(3, BINS)
    for label, values in enumerate(logits):
        for value in values:
            histogram[label, int(to_bins(torch.tensor(value)))] += 0.3  # only proportions matter
    found = open_bins(histogram, torch.tensor(prevalence), share)
    for label, values in enumerate(logits):
        places = np.clip(np.floor((values + 12) * 10), 0, 239)
        is_open = found[label].numpy()[places.astype(int)]
        for place, opened in zip(places, is_open, strict=True):
            from_yes = (places > place).mean() - share * prevalence[label]
            from_no = (places < place).mean() - share * (1 - prevalence[label])
            if min(abs(from_yes), abs(from_no)) > 1e-6:  # else a matter of rounding
                assert opened == (from_yes < 0 or from_no < 0)
        assert share - 1e-6 <= is_open.mean() <= share + 0.06
        top = np.sort(values)[-int(share * prevalence[label] * 2000) :]
        assert found[label].numpy()[to_bins(torch.tensor(top))].all()


def test_a_label_without_both_answers_and_one_not_seen_teach_nothing():
    histogram = torch.ones(3, BINS)
    histogram[2] = 0
    found = open_bins(histogram, torch.tensor([math.nan, 0.5, 0.5]), 1.0)
    assert found.any(dim=1).tolist() == [False, True, False]


def test_the_steps_equal_those_made_by_hand(whole):
    """Student, average and counts, entry by entry in float64."""
    student, average, histogram = runs.by_hand(runs.smooth_model(), **runs.TEACHING)
    np.testing.assert_allclose(whole["histogram"], histogram, atol=1e-4)
    assert_near(whole["student"], student)
    assert_near(whole["average"], average)
    without = runs.by_hand(runs.smooth_model(), **{**runs.TEACHING, "weight": 0.0})[0]
    with pytest.raises(AssertionError):
        assert_near(whole["student"], without, 0.1)


@pytest.mark.parametrize(("size", "accumulation"), [(5, 4), (12, 2), (7, 3)])
def test_steps_in_pieces_are_the_steps_at_once(tmp_path, whole, size, accumulation):
    seen, average, callbacks = runs.teach(tmp_path, size, accumulation)
    torch.testing.assert_close(kept(callbacks), whole["histogram"])
    assert_near(seen[-1], whole["student"])
    assert_near(average, whole["average"])


def test_two_processes_learn_as_one(tmp_path, whole):
    """Twice 12 places for 20 pictures: the four that only fill up the last batch neither learn nor count."""
    in_two_processes(runs.write_teaching, tmp_path, folder=tmp_path)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"end.{rank}", weights_only=True)
        torch.testing.assert_close(found["histogram"], whole["histogram"])
        assert_near(found["student"], whole["student"])
        assert_near(found["average"], whole["average"])


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_interrupted_run_goes_on_with_the_same_teacher(tmp_path, elsewhere):
    """Also within an epoch, where the gates depend on the steps before."""
    settings = {"batch_size": 10, "save_strategy": "steps", "save_steps": 3}
    seen, average, callbacks = runs.teach(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        runs.teach(tmp_path / "broken", callbacks=[runs.Stop(5)], **settings)
    checkpoint = tmp_path / "broken" / "checkpoint-3"
    assert load_file(checkpoint / TRAINING_WEIGHTS)["teacher.histogram"].sum() > 0
    if elsewhere:
        checkpoint = shutil.move(checkpoint, tmp_path / "moved")
    after, again, resumed = runs.teach(
        tmp_path / "broken", checkpoint=checkpoint if elsewhere else None, resume=str(checkpoint), **settings
    )
    assert torch.equal(kept(callbacks), kept(resumed))
    assert len(after) == 5
    for one, other in zip(seen[3:], after, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert all(torch.equal(tensor, again[name]) for name, tensor in average.items())


def test_what_nobody_could_tell_is_not_taught(uncertain_colours, tmp_path):
    path = tmp_path / "my.yaml"
    keys = {
        **runs.RECIPE,
        **TEACHER,
        "data": str(uncertain_colours),
        "uncertain_values": ["u"],
        "max_train_images": None,
    }
    path.write_text(yaml.safe_dump({**keys, "output_dir": str(tmp_path / "out")}))
    recipe = parse_recipe(str(path))
    data = prepare_data(recipe)
    model, _, datasets = prepare_training(recipe, data)
    shown = make_trainer(recipe, model, datasets, data).train_dataset
    codes = data.images.of_split("train").labels
    assert (codes == UNCERTAIN).sum() > 5
    taught = np.stack([shown[i]["unknown_entries"].numpy() for i in range(len(shown))])
    np.testing.assert_array_equal(taught, codes == IGNORE_INDEX)


def test_the_student_sees_what_it_sees_without_a_teacher(colour_images, tiny_model):
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    augmented = PixelDataset(colour_images, processor.train_transform(), shortest_side=processor.needed_side(True))
    plain = augmented.with_transform(processor.eval_transform(), processor.needed_side())
    both = TwoViews(augmented, plain, colour_images.labels < 0)
    assert len(both) == 48

    def draw(dataset):
        random.seed(0)
        torch.manual_seed(0)
        np.random.seed(0)
        return [dataset[i]["pixel_values"] for i in (3, 1, 4)]

    assert all(torch.equal(one, other) for one, other in zip(draw(augmented), draw(both), strict=True))
    expected = processor([row["image"]["path"] for row in colour_images.dataset.select([3])]).pixel_values[0]
    assert torch.equal(both[3][PLAIN], expected)
    assert (both[3]["labels"] == colour_images.labels[3]).all()


def test_a_recipe_with_a_teacher_resumes_to_the_same_weights_and_says_how_much_it_taught(colour_table, tmp_path):
    whole = runs.train_recipe(colour_table, tmp_path / "whole", **TEACHER)
    parts = runs.train_recipe_in_two_parts(colour_table, tmp_path / "parts", **TEACHER)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    without = runs.train_recipe(colour_table, tmp_path / "without", "--teacher_weight=0", **TEACHER)
    assert any(not torch.equal(tensor, without[name]) for name, tensor in whole.items())
    log = json.loads((tmp_path / "whole" / "out" / "training_log.json").read_text())
    shares = [entry["taught_share"] for entry in log if "loss" in entry]
    assert len(shares) == 4
    assert all(0 < share <= 1 for share in shares)


def test_with_all_labels_known_it_is_the_training_without_a_teacher(colour_table, tmp_path, caplog):
    known_everywhere(colour_table)
    with caplog.at_level("WARNING", logger="halflabel"):
        found = runs.train_recipe(colour_table, tmp_path / "with", **TEACHER)
    assert "no training entry is unknown, so there is nothing to learn from; training plainly" in caplog.text
    expected = runs.train_recipe(colour_table, tmp_path / "without", ema_decay=0.9)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("keys", [TEACHER, {"mixing": "cutmix"}], ids=["teacher", "cutmix"])
def test_a_probe_on_features_comes_first_without_a_teacher_or_a_mixing(colour_table, tmp_path, keys):
    probe = {**runs.RECIPE, "data": "x.csv", "freeze_backbone": True, "cache_features": True, "num_train_epochs": 1}
    (tmp_path / "probe.yaml").write_text(yaml.safe_dump(probe))
    cache = {"feature_cache": str(tmp_path / "cache"), "num_train_epochs": 1}
    probed = {"probe_first": str(tmp_path / "probe.yaml"), **cache, **keys}
    assert runs.train_recipe(colour_table, tmp_path / "run", **probed)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"teacher_weight": 1.0}, "teacher_weight needs ema_decay, like 0.999"),
        ({**TEACHER, "teacher_weight": -1.0}, "teacher_weight is -1.0, expected above 0"),
        ({**TEACHER, "teacher_ramp": 1.5}, "teacher_ramp is 1.5, expected from 0 to 1"),
        ({**TEACHER, "teacher_share": 0.0}, "teacher_share is 0.0, expected above 0 and at most 1"),
        ({**TEACHER, "cache_features": True, "freeze_backbone": True}, "take self-training or label propagation"),
        ({**TEACHER, "mixing": "mixup"}, "teacher_weight does not go with mixing"),
        ({**TEACHER, "loss": "wan"}, "teacher_weight does not go with wan"),
        ({**TEACHER, "streaming": True, "max_steps": 5, "max_train_images": None}, "does not go with streaming"),
    ],
)
def test_mistakes_are_told_in_one_line(colour_table, tmp_path, keys, message):
    with pytest.raises(HalflabelError, match=message):
        runs.train_recipe(colour_table, tmp_path, **keys)
