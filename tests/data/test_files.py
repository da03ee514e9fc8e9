import pytest

from halflabel.data.files import read_yaml
from halflabel.model.errors import HalflabelError


def read(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    return read_yaml(tmp_path / "a.yaml")


def test_plain_values_are_read_as_they_are(tmp_path):
    assert read(tmp_path, "\ufeffa: 1\nb: [x, {c: null}]\nd: {a: 2}\n") == {
        "a": 1,
        "b": ["x", {"c": None}],
        "d": {"a": 2},
    }
    assert read(tmp_path, "") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "the key 'a' is given twice"),
        ("a: [{b: 1, b: 1}]", "the key 'b' is given twice"),
        ("a: &x 1\nb: *x\n", r"it has an alias \(\*x\)"),
        ("a: !!python/name:os.system x", "could not determine a constructor"),
        ("a: !!timestamp x", "cannot be read as YAML"),
    ],
)
def test_what_is_not_plain_is_refused_in_one_line_that_names_the_file(tmp_path, text, message):
    with pytest.raises(HalflabelError, match=f"a.yaml: .*{message}") as told:
        read(tmp_path, text)
    assert "\n" not in str(told.value)
