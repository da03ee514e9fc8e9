import numpy as np
import pytest

from halflabel import HalflabelError


def test_labels_can_be_replaced_and_selected(colour_images):
    flipped = np.where(colour_images.labels == 1, 0, colour_images.labels).astype(np.int8)
    changed = colour_images.with_labels(flipped)
    assert (changed.labels == flipped).all()
    assert changed.dataset["file_name"][:] == colour_images.dataset["file_name"][:]
    assert changed.dataset.features == colour_images.dataset.features
    assert (colour_images.select([5, 2]).labels == colour_images.labels[[5, 2]]).all()
    assert len(colour_images.of_split("test")) == 16


def test_labels_can_be_narrowed_and_reordered(colour_images):
    narrowed = colour_images.with_only(["blue", "red"])
    assert (narrowed.labels == colour_images.labels[:, ::-1]).all()
    with pytest.raises(HalflabelError, match="did you mean blue"):
        colour_images.with_only(["bleu"])
