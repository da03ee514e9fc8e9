import pytest

from halflabel import HalflabelError
from halflabel.data.loading import READERS, parse_sources
from halflabel.data.source import Source, parse_source


def test_a_path_alone_is_a_source():
    assert parse_source("x.csv") == Source("x.csv")
    assert parse_source(Source("x.csv")) == Source("x.csv")
    assert Source("x.csv").title == "x.csv"
    assert Source("x.csv", name="X").title == "X"


def test_every_key_of_a_mapping():
    given = {
        "path": "p", "format": "table", "name": "n", "image_folder": "i", "labels": ["a", 1],
        "label_map": {"a": "b", "c": None}, "absent": "unknown", "uncertain_values": [-1, "?"], "split": "val",
        "image_column": "im", "label_column": "objects.c", "descriptions": "d.csv", "allow_outside": True,
    }  # fmt: skip
    source = parse_source(given)
    assert (source.labels, source.uncertain_values, source.split) == (("a", "1"), ("-1", "?"), "validation")
    for key in set(given) - {"labels", "uncertain_values", "split"}:
        assert getattr(source, key) == given[key]


def test_null_is_the_default():
    assert parse_source(
        {"path": "p", "labels": None, "uncertain_values": None, "label_map": None, "split": None}
    ) == Source("p")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "data: 7 is neither a path nor a mapping with a path"),
        ({}, "data: the source {} has no 'path'"),
        ({"path": ""}, "data: the source {'path': ''} has no 'path'"),
        ({"path": 3}, "data: the source {'path': 3} has no 'path'"),
        ({"path": "p", "lables": ["a"]}, "data: unknown key 'lables' of a source; did you mean labels, "),
        ({"path": "p", 3: 4}, "data: unknown key 3 of a source"),
        ({"path": "p", "labels": "car"}, "data: labels of p is 'car', expected a list"),
        ({"path": "p", "labels": 5}, "data: labels of p is 5, expected a list"),
        ({"path": "p", "uncertain_values": -1}, "data: uncertain_values of p is -1, expected a list"),
        ({"path": "p", "label_map": ["a"]}, "data: label_map of p is ['a'], expected a mapping"),
        ({"path": "p", "label_map": {False: "a"}}, "data: label_map of p has False: 'a', expected names (quote "),
        ({"path": "p", "label_map": {"a": True}}, "data: label_map of p has 'a': True, expected names"),
        ({"path": "p", "allow_outside": "no"}, "data: allow_outside of p is 'no', expected true or false"),
        ({"path": "p", "image_folder": 5}, "data: image_folder of p is 5, expected a text"),
        ({"path": "p", "split": 1}, "data: split of p is 1, expected a text"),
        ({"path": "p", "split": "trian"}, "split 'trian' is none of train, validation, test; did you mean train?"),
        ({"path": "p", "format": "tabel"},
         f"source p: format 'tabel' is none of street_scenes, {', '.join(READERS)}; did you mean table"),
        ({"path": "p", "absent": "no"}, "source p: absent 'no' is none of negative, unknown"),
        ({"path": "p", "absent": False}, "data: absent of p is False, expected a text"),
    ],
)  # fmt: skip
def test_mappings_that_are_none(given, message):
    with pytest.raises(HalflabelError) as error:
        parse_sources([given])
    assert str(error.value).startswith(message)
