import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import unknown_runs as runs
from forked import in_two_processes

from halflabel import IGNORE_INDEX, UNCERTAIN, HalflabelError, MultiLabelTrainer
from halflabel.data.pixels import collate
from halflabel.model.losses import count_items
from halflabel.training.feature_shards import FeatureDataset
from halflabel.training.mixing import MIXINGS, MixingCollator, blend_targets, draw_boxes, draw_rows, join_targets

CODES = [0.0, 1.0, 0.25, 0.7, float(IGNORE_INDEX), float(UNCERTAIN)]


def blend(first, second, share):
    """One entry, as the definition has it."""
    if first >= 0 and second >= 0:
        return share * first + (1 - share) * second
    return IGNORE_INDEX if first == second == IGNORE_INDEX else UNCERTAIN


def join(targets):
    """One entry, as the definition has it."""
    if 1.0 in targets:
        return 1.0
    if min(targets) >= 0:
        return 1 - math.prod(1 - t for t in targets)
    return IGNORE_INDEX if set(targets) <= {0.0, IGNORE_INDEX} else UNCERTAIN


def items(rows=12, labels=5, width=None, seed=0):
    """Images that are unit vectors, so that a mixture shows what it is made of; every code occurs."""
    generator = np.random.default_rng(seed)
    targets = generator.choice(CODES, size=(rows, labels), p=[0.3, 0.3, 0.05, 0.05, 0.2, 0.1]).astype(np.float32)
    return FeatureDataset(torch.eye(rows, width or rows), targets)


def batch_of(dataset):
    return [dataset[i] for i in range(len(dataset))]


def test_a_blend_is_known_only_where_both_are():
    pairs = list(itertools.product(CODES, repeat=2))
    first, second = (torch.tensor(column)[None] for column in zip(*pairs, strict=True))
    for share in (0.0, 0.3, 0.5, 0.9, 1.0):
        expected = [blend(*pair, share) for pair in pairs]
        found = blend_targets(first, second, torch.tensor([[share]]))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        known = found[found >= 0]
        assert known.max() <= 1


@pytest.mark.parametrize("images", [2, 3])
def test_a_union_is_yes_beside_anything_and_no_only_if_all_are(images):
    combinations = list(itertools.product(CODES, repeat=images))
    found = join_targets(torch.tensor(combinations).T[None])[0]
    np.testing.assert_allclose(found, [join(targets) for targets in combinations], rtol=1e-6)
    assert join_targets(torch.tensor([[[1.0], [IGNORE_INDEX], [UNCERTAIN]]])).item() == 1.0
    assert join_targets(torch.tensor([[[0.0], [IGNORE_INDEX]]])).item() == IGNORE_INDEX


@pytest.mark.parametrize(("batch", "images"), [(7, 2), (7, 3), (2, 3), (1, 2), (4, 4)])
def test_an_image_is_mixed_with_others_of_which_each_is_taken_as_often(batch, images):
    for seed in range(20):
        torch.manual_seed(seed)
        rows = draw_rows(batch, images)
        assert rows.shape == (batch, min(images, batch))
        assert rows[:, 0].tolist() == list(range(batch))
        assert all(len(set(row)) == len(row) for row in rows.tolist())
        assert all(sorted(column) == list(range(batch)) for column in rows.T.tolist())


def test_every_other_image_is_as_likely():
    torch.manual_seed(0)
    seen = torch.stack([draw_rows(4, 2)[:, 1] for _ in range(3000)])
    for image in range(4):
        counts = torch.bincount(seen[:, image], minlength=4)
        assert counts[image] == 0
        assert all(abs(int(counts[other]) - 1000) < 120 for other in range(4) if other != image)


def test_a_box_covers_the_rest_of_the_picture():
    torch.manual_seed(0)
    share = torch.rand(200)
    boxes = draw_boxes(share, 40, 60)
    assert boxes.shape == (200, 1, 40, 60)
    whole = 0
    for kept, box in zip(share.tolist(), boxes[:, 0], strict=True):
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows[:, None] & columns[None])  # a rectangle, without holes:
        assert all(int(side.sum()) == int(side.nonzero().max() - side.nonzero().min()) + 1 for side in (rows, columns))
        height, width = 40 * math.sqrt(1 - kept), 60 * math.sqrt(1 - kept)
        assert rows.sum() <= height + 1
        assert columns.sum() <= width + 1
        if not (rows[0] or rows[-1] or columns[0] or columns[-1]):
            whole += 1
            assert abs(int(rows.sum()) - height) <= 1
            assert abs(int(columns.sum()) - width) <= 1
    assert whole > 20


@pytest.mark.parametrize(
    ("name", "arguments"), [("mixup", {"alpha": 0.7}), ("logicmix", {}), ("logicmix", {"images": 3})]
)
def test_mixtures_of_features_equal_explicit_loops(name, arguments):
    batch = collate(batch_of(items()))
    targets = batch["labels"].tolist()
    inputs, labels = MIXINGS[name](batch["features"], batch["labels"], **arguments)
    for i, (weights, found) in enumerate(zip(inputs.tolist(), labels.tolist(), strict=True)):
        parts = [j for j, weight in enumerate(weights) if weight]
        assert sum(weights) == pytest.approx(1)
        for label, value in enumerate(found):
            if name == "mixup":
                (other,) = set(parts) - {i} or {i}
                expected = blend(targets[i][label], targets[other][label], weights[i])
            else:
                assert len(parts) == arguments.get("images", 2)
                assert i in parts
                assert [weights[j] for j in parts] == pytest.approx([1 / len(parts)] * len(parts))
                expected = join([targets[j][label] for j in parts])
            assert value == pytest.approx(expected, abs=1e-6)


def test_cutmix_counts_the_pixels_that_stay():
    targets = collate(batch_of(items()))["labels"]
    pictures = torch.arange(12.0)[:, None, None, None].expand(-1, 3, 20, 30)
    inputs, labels = MIXINGS["cutmix"](pictures, targets)
    cut = 0
    for i, (picture, found) in enumerate(zip(inputs, labels, strict=True)):
        values = set(picture.unique().int().tolist())
        other = next(iter(values - {i}), i)
        assert values <= {i, other}
        share = float((picture[0] == i).float().mean())
        cut += share < 1
        if share < 1:
            expected = [blend(a, b, share) for a, b in zip(targets[i].tolist(), targets[other].tolist(), strict=True)]
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert cut > 6


@pytest.mark.parametrize("loss", ["bce", "em"])
@pytest.mark.parametrize("mixing", ["mixup", "logicmix"])
def test_counts_are_of_the_mixed_targets_and_no_yes_is_assumed_to_be_a_no(mixing, loss):
    dataset = items(rows=400)
    if loss == "bce":
        dataset.labels[dataset.labels == UNCERTAIN] = IGNORE_INDEX  # as the policies leave it
    plain = collate(batch_of(dataset))
    mixed = MixingCollator(collate, mixing, loss, probability=1.0)(batch_of(dataset))
    part, expected = UNCERTAIN if loss == "em" else IGNORE_INDEX, torch.zeros(6, dtype=torch.int64)
    expected[-1] = 400
    for i, weights in enumerate(mixed["features"]):
        parts = weights.nonzero()[:, 0].tolist()
        for label in range(5):
            answers = [float(plain["labels"][j, label]) for j in parts]
            found = float(mixed["labels"][i, label])
            expected[label] += found != part
            if found == IGNORE_INDEX and loss == "em":
                assert set(answers) <= ({IGNORE_INDEX} if mixing == "mixup" else {IGNORE_INDEX, 0.0})
            assert loss == "em" or found != UNCERTAIN
    assert torch.equal(count_items(mixed["labels"], loss), expected)


def test_as_many_images_are_mixed_as_asked_for_and_the_others_stay_to_the_last_bit():
    dataset = items(rows=2000, labels=3)
    plain = collate(batch_of(dataset))
    for probability in (0.25, 1.0):
        mixed = MixingCollator(collate, "logicmix", "em", probability=probability, images=3)(batch_of(dataset))
        untouched = (mixed["features"] == plain["features"]).all(dim=1)
        assert abs(float(1 - untouched.float().mean()) - probability) < 0.03
        assert torch.equal(mixed["labels"][untouched], plain["labels"][untouched])


def test_training_is_mixed_and_evaluation_is_not(tmp_path):
    seen = {True: [], False: []}

    class Look(MultiLabelTrainer):
        def compute_loss(self, model, inputs, *arguments, **keywords):
            seen[model.training].append(inputs["pixel_values"])
            return super().compute_loss(model, inputs, *arguments, **keywords)

    collator = MixingCollator(collate, "mixup", "bce", probability=1.0, alpha=5.0)
    trainer = runs.make_trainer(
        runs.make_model(), tmp_path, trainer_class=partial(Look, train_collator=collator), eval_strategy="epoch",
        num_train_epochs=1,
    )  # fmt: skip
    trainer.train()
    pictures = runs.Rows(16).pixels
    for training, batches in seen.items():
        is_plain = [bool((picture == pictures).flatten(1).all(dim=1).any()) for batch in batches for picture in batch]
        assert len(is_plain) == (16 if training else 8)
        assert not any(is_plain) if training else all(is_plain)


@pytest.mark.parametrize(
    "keys",
    [
        {"mixing": "logicmix", "mixing_args": {"images": 3}, "cache_features": True, "freeze_backbone": True},
        {"mixing": "cutmix"},
    ],
    ids=["features", "pixels"],
)
def test_a_mixing_recipe_resumes_to_the_same_weights_and_differs_from_one_without(colour_table, tmp_path, keys):
    whole = runs.train_recipe(colour_table, tmp_path / "whole", **keys)
    parts = runs.train_recipe_in_two_parts(colour_table, tmp_path / "parts", **keys)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    without = runs.train_recipe(colour_table, tmp_path / "without", "--mixing=none", **{**keys, "mixing_args": None})
    assert any(not torch.equal(tensor, without[name]) for name, tensor in whole.items())


def test_two_processes_step_as_one_on_the_mixtures_that_they_made(tmp_path):
    """20 images on twice 12 places: mixtures of images that only fill up the last batch must not count."""
    in_two_processes(runs.write_mixing, tmp_path, folder=tmp_path)
    parts = [torch.load(tmp_path / f"end.{rank}", weights_only=True) for rank in (0, 1)]
    assert [len(part["labels"]) for part in parts] == [12, 12]
    assert (parts[1]["labels"][8:] == IGNORE_INDEX).all()
    assert (parts[1]["labels"][:8] >= 0).any()
    rows = {key: torch.cat([parts[0][key], parts[1][key][:8]]) for key in ("pixel_values", "labels")}
    expected = runs.step_by_hand(rows["pixel_values"], rows["labels"])
    for name, tensor in expected.items():
        for part in parts:
            torch.testing.assert_close(part["weights"][name], tensor.float(), rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixing": "mixap"}, "mixing: 'mixap' is none of mixup, cutmix, logicmix; did you mean mixup"),
        ({"mixing": "mixup", "mixing_args": {"alfa": 1}}, "takes no argument 'alfa'; it takes probability, alpha"),
        ({"mixing": "mixup", "mixing_args": {"alpha": 0}}, "alpha is 0, expected a number above 0"),
        ({"mixing": "mixup", "mixing_args": {"images": 3}}, "takes no argument 'images'"),
        ({"mixing": "logicmix", "mixing_args": {"images": 1}}, "images is 1, expected a whole number of at least 2"),
        ({"mixing": "logicmix", "mixing_args": {"probability": 1.5}}, "probability is 1.5, expected a number above 0"),
        ({"mixing_args": {"alpha": 1}}, "mixing_args needs mixing"),
        ({"mixing": "cutmix", "cache_features": True, "freeze_backbone": True}, "cutmix pastes pixels"),
        ({"mixing": "logicmix", "mixing_args": {"images": 3}, "per_device_train_batch_size": 2}, "3 images are mixed"),
    ],
)
def test_mistakes_are_told_in_one_line(colour_table, tmp_path, keys, message):
    with pytest.raises(HalflabelError, match=message):
        runs.train_recipe(colour_table, tmp_path, **keys)
