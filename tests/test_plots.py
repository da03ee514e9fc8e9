import numpy as np
from PIL import Image

from halflabel import TimmMultiLabelImageProcessor
from halflabel.plots import _choose, draw_examples


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
