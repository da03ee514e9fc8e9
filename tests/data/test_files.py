import subprocess
import sys
from pathlib import Path

import pytest
from in_use import in_use

import halflabel
from halflabel.data.files import read_yaml, sole_use, whole_file, write_whole
from halflabel.model.errors import HalflabelError


def test_a_folder_is_for_one_process_at_a_time_and_free_when_that_is_killed(tmp_path):
    folder = tmp_path / "new" / "out"
    with (
        in_use(folder) as other,
        pytest.raises(HalflabelError, match=f"out is in use by process {other} on .*give another output folder"),
        sole_use(folder),
    ):
        pass
    for _ in range(2):  # what was killed has left its file
        with sole_use(folder):
            (folder / "result").touch()
        assert [path.name for path in folder.iterdir()] == ["result"]
    with sole_use(tmp_path / "nothing"):
        pass
    assert not (tmp_path / "nothing").exists()


def read(tmp_path, text):
    (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(tmp_path / "a.yaml")


def test_plain_values_are_read_as_they_are(tmp_path):
    assert read(tmp_path, "\ufeffa: 1\nb: [x, {c: null}]\n") == {"a": 1, "b": ["x", {"c": None}]}
    assert read(tmp_path, "") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "the key 'a' is given twice"),
        ("a: [{b: 1, b: 1}]", "the key 'b' is given twice"),
        ("a: &x 1\nb: *x\n", r"it has an alias \(\*x\)"),
        ("a: !!python/name:os.system x", "could not determine a constructor"),
        ("a: !!timestamp x", "cannot be read as YAML"),
        ('a: !!int ""', "string index out of range"),
        ("a: 2024-13-45", "month must be in 1..12"),
        (b"a: [\xff]", "'utf-8' codec can't decode byte 0xff"),
        ("a: 1\n---\na: 2\n", "expected a single document"),
        ("[" * 1500 + "]" * 1500, "maximum recursion depth"),
        (f"a: 0x{'f' * 9999}", "Exceeds the limit"),
    ],
)
def test_what_is_not_plain_is_refused_in_one_line_that_names_the_file(tmp_path, text, message):
    with pytest.raises(HalflabelError, match=f"a.yaml: .*{message}") as told:
        read(tmp_path, text)
    assert "\n" not in str(told.value)


def test_a_file_is_written_as_a_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    path.chmod(0o640)
    write_whole(path, b"2")
    assert path.read_bytes() == b"2"
    assert path.stat().st_mode & 0o777 == 0o640

    def fill_the_disk():
        with whole_file(path) as unfinished:
            unfinished.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert path.read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_a_recipe_needs_nothing_heavy():
    """Of the package only this room's front door and the errors are imported."""
    code = f"""
import sys, types
package = types.ModuleType("halflabel")
package.__path__ = [{str(Path(halflabel.__file__).parent)!r}]
sys.modules["halflabel"] = package
import halflabel.data.files
print({{"numpy", "pandas", "pyarrow", "datasets", "torch"}} & set(sys.modules) or "light")
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "light"


def test_the_front_door_of_the_room_gives_what_it_names():
    assert all(getattr(halflabel.data, name) is not None for name in halflabel.data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        halflabel.data.load  # noqa: B018
