"""A folder of features: what is in it is found by the keys of the rows, and what is damaged is made again."""

import contextlib
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME
from torch import Tensor

from ..model.errors import HalflabelError
from .feature_shards import UNFINISHED, Shard, write_shard, write_whole

log = logging.getLogger(__name__)

DEFAULT_FOLDER = Path(HF_HOME) / "halflabel" / "features"
"""Where features are kept if nobody says otherwise."""

_WHAT = (
    "Features of pictures from the frozen backbone that made_by describes, kept by halflabel so that no picture goes "
    "through it twice. A shard holds features (float32, a row per picture and view) and keys (16 bytes a row: a hash "
    "of the picture, of its transform and of its random draws). This folder may be deleted at any time."
)
_ABANDONED_S = 3600  # writing a shard takes seconds


class FeatureFolder:
    """The shards of one backbone's features, which several processes may read and write at once.

    Attributes:
        path: The folder; it need not exist.
    """

    def __init__(self, root: str | Path, backbone: str, made_by: Mapping[str, Any], key: str) -> None:
        """Touch no file yet.

        Args:
            root: The folder of all backbones' features.
            backbone: Its name, for people.
            made_by: What the features depend on, see `feature_keys.backbone_parts`; written beside the shards.
            key: The same as one word; features under another key are never used.
        """
        self.path = Path(root).expanduser() / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', backbone)}-{key[:16]}"
        self._key = key
        self._made_by = dict(made_by)
        self._shards: dict[str, Shard] = {}  # by file name
        self._whole: set[str] = set()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, tuple[Shard, int]]:
        """Return where the rows of these keys lie: a shard and a row of it; keys that are not there are left out.

        A damaged shard is removed, and a warning says so; its rows are not there.

        Raises:
            HalflabelError: If a file cannot be opened or read.
        """
        wanted = set(keys)
        found: dict[bytes, tuple[Shard, int]] = {}
        damaged: dict[Path, str] = {}
        for path in sorted(self.path.glob("shard-*.safetensors")):
            try:
                shard = self._open(path)
                rows = {key: (shard, row) for row, key in enumerate(shard.keys) if key in wanted}
                if rows:
                    self._check(shard)
                found.update(rows)
            except FileNotFoundError:  # another process has just removed it
                self._shards.pop(path.name, None)
            except ValueError as error:
                self._shards.pop(path.name, None)
                damaged[path] = str(error)
            except OSError as error:
                raise HalflabelError(f"features in {path} cannot be read: {error}") from error
        self._remove(damaged)
        return found

    def _open(self, path: Path) -> Shard:
        if path.name not in self._shards:
            self._shards[path.name] = Shard.open(path, self._key)
        return self._shards[path.name]

    def _check(self, shard: Shard) -> None:
        """Read a shard through, once in this object's life."""
        if shard.path.name not in self._whole:
            if not shard.is_whole():
                raise ValueError("its features are damaged")
            self._whole.add(shard.path.name)

    def _remove(self, damaged: Mapping[Path, str]) -> None:
        for path in damaged:
            with contextlib.suppress(OSError):  # where nothing may be written, `prepare` will say so
                path.unlink(missing_ok=True)
        if damaged:
            path, reason = next(iter(damaged.items()))
            log.warning(
                "%d damaged file(s) of features are made again, the first is %s: %s", len(damaged), path, reason
            )

    def prepare(self) -> None:
        """Make the folder, write what it is, and remove what killed processes left.

        Raises:
            HalflabelError: If it cannot be written to.
        """
        about = {"what": _WHAT, "key": self._key, "made_by": self._made_by}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "about.json", (json.dumps(about, indent=1) + "\n").encode())
        except OSError as error:
            raise self._unwritable(error) from error
        for rest in self.path.glob(UNFINISHED):
            with contextlib.suppress(OSError):  # another process may have just removed it
                if time.time() - rest.stat().st_mtime > _ABANDONED_S:
                    rest.unlink()

    def write(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Add rows.

        Args:
            keys: One per row.
            features: float32 of shape (rows, *shape of a row).

        Raises:
            HalflabelError: If the disk is full, or the folder cannot be written to.
        """
        try:
            write_shard(self.path, self._key, keys, features)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> HalflabelError:
        return HalflabelError(
            f"features cannot be kept in {self.path} ({error.strerror or error}): set feature_cache to another folder, "
            "or to none to keep them in memory"
        )
