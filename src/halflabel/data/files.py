"""Files: written as a whole or not at all, YAML of plain values, and whether data and models are where they should be.

Imports nothing heavy: the command line reads recipes with it before anything else is loaded.
"""

import contextlib
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from ..model.errors import HalflabelError, did_you_mean, nearest_file, reason_of, shortlist

UNFINISHED = ".*.part"
"""What a file is called while it is written, beside its own place; one that is killed leaves such a file."""

LOCK = ".in_use"
"""The file in an output folder that names the process that writes there; removed at its end."""

EMBEDDED = "street_scenes"
"""The name of the pictures that the package draws itself."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a place to write to; what was written there becomes the file if the block ends well, else it is removed.

    The permissions of a file that is there already stay.

    Raises:
        OSError: If the disk is full, or the folder cannot be written to.
    """
    unfinished = path.with_name(UNFINISHED.replace("*", uuid.uuid4().hex))
    try:
        yield unfinished
        if path.exists():
            shutil.copymode(path, unfinished)
        put_in_place({unfinished: path})
    finally:
        unfinished.unlink(missing_ok=True)


def put_in_place(files: Mapping[Path, Path]) -> None:
    """Give files their names, when the disk holds all of them: after a power cut no name stands for half a file.

    Args:
        files: From where each lies to its name, in the same folder, where another file may be.
    """
    sync_files(files)
    for unfinished, path in files.items():
        unfinished.replace(path)
    for folder in {path.parent for path in files.values()}:
        sync_folder(folder)


def sync_files(files: Iterable[Path]) -> None:
    """Wait until the disk holds the content of files."""
    for path in files:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk holds the names of what lies in a folder."""
    with contextlib.suppress(OSError):  # of systems that open no folder
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, texts as UTF-8, so that it is there as a whole or, where writing fails, as it was.

    Raises:
        OSError: As for `whole_file`.
    """
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def file_identity(path: str | os.PathLike[str]) -> str:
    """Return, without reading it, what tells a file from another one that is put in its place: size and times.

    One is the time at which the entry changed, which no program can set back, as it can that of the content.

    Raises:
        OSError: If it is not there; ValueError for a path that can be none.
    """
    found = os.stat(path)
    return f"{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}"


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of an output folder, which is made, while the block runs.

    The lock ends with this process, however that ends; a process that it starts does not hold it. Windows has no such
    locks, nor have some file systems: there every process is let in.

    Raises:
        HalflabelError: If another process has the folder; it says which.
    """
    new, path = not folder.exists(), folder / LOCK
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+", encoding="utf-8")
        if not _lock(file):
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise HalflabelError(f"{folder} is in use by {holder}: wait for its end, or give another output folder")
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()  # who had it has just removed the file
    try:
        with file:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        if new:
            with contextlib.suppress(OSError):  # not where something lies in it
                folder.rmdir()


def _lock(file: IO[str]) -> bool:
    """Lock an open file for this process; return False where another has."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            pass
    return True


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - what a file holds
    """Read a YAML file of plain values: mappings, lists, texts, numbers, dates.

    Raises:
        HalflabelError: If it is not YAML of plain values in UTF-8, has an alias (merged aliases make a short file grow
            without bounds), or a key twice in one mapping, of which YAML keeps the last in silence.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        aliases = [event for event in yaml.parse(text, Loader=yaml.SafeLoader) if isinstance(event, yaml.AliasEvent)]
        content = None if aliases else yaml.safe_load(text)
        repeated = [] if aliases else list(_repeated(yaml.compose(text, Loader=yaml.SafeLoader)))
        repr(content)  # a hexadecimal number may be too long for that, which no message could tell
    # PyYAML lets Python's own errors through: of `!!int ""` an IndexError, of `!!timestamp x` an AttributeError.
    except (yaml.YAMLError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise HalflabelError(f"{path}: cannot be read as YAML ({reason_of(error)})") from error
    if aliases:
        raise HalflabelError(f"{path}: it has an alias (*{aliases[0].anchor}); write out what it stands for")
    if repeated:
        raise HalflabelError(f"{path}: the key {repeated[0][:100]!r} is given twice")
    return content


def _repeated(root: yaml.Node | None) -> Iterator[str]:
    """Give the keys that stand twice in a mapping of a tree."""
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            yield from (key for i, key in enumerate(keys) if key in keys[:i])
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def check_data_place(path: str) -> None:
    """Refuse what is no file or folder that is there, and cannot be a data set of the Hub either.

    Raises:
        HalflabelError: It names the nearest file.
    """
    if path == EMBEDDED or os.path.exists(path):
        return
    name = os.path.basename(path)
    if "." in name or path.count("/") > 1 or path.startswith(("/", ".", "~")):
        raise HalflabelError(f"{path}: no such file or folder{nearest_file(path)}")
    if "/" not in path:
        nearest = nearest_file(path) or did_you_mean(path, [EMBEDDED])
        raise HalflabelError(
            f"data {path!r} is neither a file, a folder nor {EMBEDDED!r}{nearest}; a data set of the Hub is owner/name"
        )


def check_model_place(name: str) -> None:
    """Refuse a path that is no model's folder, of which transformers would speak as of a name on the Hub.

    Raises:
        HalflabelError: It says what is there instead.
    """
    reason = ""
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "config.json")):
            reason = "the folder holds no config.json: give the output folder of a finished run"
            inside = sorted(entry.path for entry in os.scandir(name) if os.path.isfile(f"{entry.path}/config.json"))
            reason += f", like {shortlist(inside, 3)}" if inside else ""
    elif os.path.isfile(name):
        reason = "it is a file: give the folder of a model"
    elif name.count("/") != 1 or name.startswith((".", "~", "/")):  # the Hub has owner/name
        reason = f"there is no such folder{nearest_file(name)}; a name on the Hub is like me/my-model"
    if reason:
        raise HalflabelError(f"model {name!r} cannot be loaded: {reason}")
