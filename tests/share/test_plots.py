import numpy as np
from PIL import Image

from halflabel import TimmMultiLabelImageProcessor
from halflabel.model.decisions import DecisionRule
from halflabel.share.plots import _choose, draw_examples


def test_partly_known_pictures_with_a_yes_are_chosen_each_of_another_kind():
    labels = np.array([[0, 0], [1, -100], [1, -100], [-100, 1], [-100, -100], [1, 1]])
    assert _choose(labels, 2) == [1, 3]
    assert len(_choose(labels, 99)) == 6


def test_a_picture_is_written_for_each_example(tiny_model, colour_images, tmp_path):
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    draw_examples(colour_images, tiny_model, processor, tmp_path / "e.png", columns=2)
    draw_examples(colour_images.select([0]), tiny_model, processor, tmp_path / "one.png", columns=2)
    with Image.open(tmp_path / "e.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.width > 1.8 * one.width
        assert len(set(np.asarray(two.convert("L")).ravel())) > 20


def test_the_bars_show_calibrated_scores(tiny_model, colour_images, tmp_path):
    """A shift of 20 makes every score 1: then there is more ink."""
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    ink = []
    for shift in (0.0, 20.0):
        tiny_model.config.decisions = DecisionRule.plain(2).to_dict() | {"shift": [shift] * 2}
        draw_examples(colour_images, tiny_model, processor, tmp_path / "e.png", columns=2)
        with Image.open(tmp_path / "e.png") as picture:
            ink.append((np.asarray(picture.convert("RGB")) == (34, 38, 46)).all(axis=-1).sum())
    assert ink[1] > ink[0] + 500
