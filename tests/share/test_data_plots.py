import numpy as np
from PIL import Image

from halflabel.data.images import from_records
from halflabel.share.data_plots import draw_coverage


def images_of(labels):
    rows = (
        {"image": {"path": str(i), "bytes": None}, "file_name": str(i), "labels": row} for i, row in enumerate(labels)
    )
    return from_records(rows, [f"label {i}" for i in range(labels.shape[1])])


def share(path, colour):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return (np.abs(pixels - np.array(colour)).max(axis=-1) <= 2).mean()


def test_more_known_entries_leave_less_paper(tmp_path):
    blue, grey = (0, 114, 178), (242, 242, 242)
    for name, known in (("few", 0.2), ("many", 0.9)):
        labels = np.where(np.random.default_rng(0).random((50, 6)) < known, 1, -100).astype(np.int8)
        draw_coverage(images_of(labels), tmp_path / f"{name}.png")
    assert share(tmp_path / "many.png", blue) > 3 * share(tmp_path / "few.png", blue)
    assert share(tmp_path / "few.png", grey) > 3 * share(tmp_path / "many.png", grey)


def test_many_images_and_labels_still_fit(tmp_path):
    labels = np.random.default_rng(0).choice(np.array([1, 0, -100, -101], np.int8), (1000, 200))
    draw_coverage(images_of(labels), tmp_path / "large.png")
    assert max(Image.open(tmp_path / "large.png").size) < 6000


def test_nothing_known_is_drawn_too(tmp_path):
    draw_coverage(images_of(np.full((3, 1), -100, np.int8)), tmp_path / "none.png")
    assert share(tmp_path / "none.png", (0, 114, 178)) < 0.01
