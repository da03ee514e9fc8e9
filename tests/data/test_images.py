import datasets
import numpy as np
import pytest

from halflabel import HalflabelError
from halflabel.data.images import FEATURES, AnnotatedImages, build_images, check_split, from_records
from halflabel.model.labels import LabelSpace


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


LABELS = np.array([[1, 0], [-100, -101], [0, 1]], np.int8)


def built(**texts):
    return build_images(["a", "b", "c"], ["/x/a", "/x/b", "/x/c"], LABELS, ["car", "dog"], **texts)


def test_pictures_on_disk_stay_there():
    images = built(splits=["train", "", "test"], groups=["g", "", "g"], sources=["s", "", ""])
    assert images.dataset.features == FEATURES
    assert images.dataset[:] == {
        "image": [{"bytes": None, "path": f"/x/{name}"} for name in "abc"],
        "file_name": ["a", "b", "c"], "split": ["train", "", "test"], "group": ["g", "", "g"], "source": ["s", "", ""],
    }  # fmt: skip
    assert images.labels.tolist() == LABELS.tolist()
    assert (
        built().column("split").tolist()
        == built().column("group").tolist()
        == built().column("source").tolist()
        == [""] * 3
    )


def test_records_hold_what_they_say():
    rows = [
        {"image": {"bytes": b"1", "path": None}, "labels": [1]},
        {"image": {"bytes": None, "path": "p"}, "labels": [-100], "split": "test"},
    ]
    images = from_records(iter(rows), ["x"])
    assert images.labels.tolist() == [[1], [-100]]
    assert images.column("split").tolist() == ["", "test"]
    assert images.dataset["image"][:] == [{"bytes": b"1", "path": None}, {"bytes": None, "path": "p"}]


def test_one_column_is_replaced_and_the_others_stay():
    images = built(splits=["train", "", "test"])
    changed = images.with_column("split", np.array(["a", "b", "c"], dtype=object))
    assert changed.dataset.features == FEATURES
    assert changed.column("split").tolist() == ["a", "b", "c"]
    assert changed.column("file_name").tolist() == ["a", "b", "c"]
    assert images.column("split").tolist() == ["train", "", "test"]
    assert images.select([2, 0]).with_column("group", ["x", "y"]).dataset[0] == {
        "image": {"bytes": None, "path": "/x/c"}, "file_name": "c", "split": "test", "group": "x", "source": ""
    }  # fmt: skip


def test_labels_stand_in_the_data_set_where_asked_for():
    whole = built().select([2, 1]).to_dataset()
    assert whole["labels"][:] == [[0, 1], [-100, -101]]
    assert whole["file_name"][:] == ["c", "b"]
    assert whole.features == datasets.Features({**FEATURES, "labels": datasets.List(datasets.Value("int8"))})


def test_labels_of_another_shape_are_refused():
    with pytest.raises(HalflabelError, match=r"labels have shape \(3, 2\), expected \(images, num_labels\) \(3, 1\)"):
        AnnotatedImages(built().dataset, LabelSpace(["car"]), LABELS)
    with pytest.raises(HalflabelError, match=r"label value .*2.* at row 1, column 0"):
        built().with_labels(np.array([[1, 0], [2, 0], [0, 0]], np.int8))


@pytest.mark.parametrize(
    ("given", "standard"),
    [("train", "train"), (" Training ", "train"), ("VAL", "validation"), ("valid", "validation"), ("dev", "validation"),
     ("validate", "validation"), ("validation", "validation"), ("test", "test")],
)  # fmt: skip
def test_splits_have_standard_names(given, standard):
    assert check_split(given) == standard


@pytest.mark.parametrize("given", ["", "trian", "all", "test2"])
def test_other_splits_are_refused(given):
    with pytest.raises(HalflabelError, match=f"split {given!r} is none of train, validation, test"):
        check_split(given)
