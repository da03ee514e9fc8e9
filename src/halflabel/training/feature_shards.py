"""Features in files: a shard is written whole or not at all, is checked, and is read row by row where it lies."""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from ..data.pixels import Epoch
from ..model.errors import HalflabelError

UNFINISHED = ".*.part"
"""Pattern of the files that are being written; only a killed process leaves one behind."""

_FORMAT = "halflabel features 1"
_KEY_BYTES = 16
_SAMPLE_BYTES = 256 << 20


@dataclass(frozen=True)
class Shard:
    """One file of features, mapped.

    Attributes:
        path: The file.
        keys: The key of each row, 16 bytes.
        features: float32 of shape (rows, *shape of a row), in the mapped file.
        checksum: Of all tensors' bytes, as the file says.
    """

    path: Path
    keys: tuple[bytes, ...]
    features: Tensor
    checksum: str

    @classmethod
    def open(cls, path: Path, made_by: str) -> "Shard":
        """Map a shard; its features are not read.

        Args:
            path: The file.
            made_by: The key of the backbone that the features must be of.

        Raises:
            ValueError: If it is cut off, is no shard, or is another backbone's; the message says which.
            OSError: If it cannot be opened.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about, keys = file.metadata() or {}, file.get_tensor("keys").numpy().tobytes()
            features = _map(path)
        except SafetensorError as error:
            raise ValueError(f"it is cut off or damaged: {error}") from error
        if about.get("format") != _FORMAT or about.get("made_by") != made_by:
            raise ValueError("it is not of this backbone")
        if about.get("keys") != xxhash.xxh3_64_hexdigest(keys):
            raise ValueError("its keys are damaged")
        split = tuple(keys[start : start + _KEY_BYTES] for start in range(0, len(keys), _KEY_BYTES))
        return cls(path, split, features, about["checksum"])

    def is_whole(self) -> bool:
        """Read the file once, in pieces, and tell whether its bytes are those that were written."""
        with self.path.open("rb") as file:  # not through the map, whose pages would count as this process's memory
            file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
            digest = xxhash.xxh3_64()
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest() == self.checksum


def _map(path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        features: Tensor = file.get_tensor("features")
    return features


def write_shard(folder: Path, made_by: str, keys: Sequence[bytes], features: Tensor) -> None:
    """Write a shard. Its name follows from the keys, so that two processes that make the same rows end with one file.

    Args:
        folder: Where to.
        made_by: The key of the backbone.
        keys: One per row, 16 bytes each.
        features: float32 of shape (rows, *shape of a row).

    Raises:
        OSError: If the disk is full, or the folder cannot be written to.
    """
    joined = b"".join(keys)
    matrix = torch.frombuffer(bytearray(joined), dtype=torch.uint8).reshape(len(keys), _KEY_BYTES)
    tensors = {"features": features.contiguous(), "keys": matrix}
    plain = save(tensors)
    about = {
        "format": _FORMAT,
        "made_by": made_by,
        "keys": xxhash.xxh3_64_hexdigest(joined),
        "checksum": xxhash.xxh3_64_hexdigest(memoryview(plain)[8 + int.from_bytes(plain[:8], "little") :]),
    }
    write_whole(folder / f"shard-{xxhash.xxh3_128_hexdigest(joined)}.safetensors", save(tensors, about))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole or not at all.

    Raises:
        OSError: If the disk is full, or the folder cannot be written to.
    """
    unfinished = path.with_name(UNFINISHED.replace("*", uuid.uuid4().hex))
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the name without the content
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


class MappedRows:
    """Rows of features in memory-mapped files: a row is read when it is asked for, and none is kept.

    Sent to another process, it maps the files there.

    Attributes:
        shape: (rows, *shape of a row).
    """

    def __init__(self, shards: Sequence[Shard], where: NDArray[np.int64]) -> None:
        """Say where each row lies.

        Args:
            shards: The files.
            where: Shape (rows, 2): the number of a shard, and of the row within it.
        """
        self._paths = [shard.path for shard in shards]
        self._maps = [shard.features for shard in shards]
        self._where = where
        self.shape = (len(where), *self._maps[0].shape[1:])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._where)

    def __getitem__(self, row: int) -> Tensor:
        """Return one row, float32; it lies in the mapped file."""
        shard, position = self._where[row]
        found: Tensor = self._maps[shard][position]
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped memory behind; a pickle would hold all of it."""
        return {name: value for name, value in vars(self).items() if name != "_maps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files again."""
        vars(self).update(state, _maps=[_map(path) for path in state["_paths"]])

    def gather(self, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Read rows into memory, all of them where none are named; float32 of shape (rows, *shape of a row)."""
        where = self._where if rows is None else self._where[rows]
        gathered = torch.empty(len(where), *self.shape[1:])
        for number in np.unique(where[:, 0]):
            mine = np.flatnonzero(where[:, 0] == number)
            gathered[torch.from_numpy(mine)] = self._maps[number][torch.from_numpy(where[mine, 1])]
        return gathered

    def sample(self) -> Tensor:
        """Read all rows, or where they are more than 256 MiB as many evenly spaced ones: enough for their spread."""
        count = min(len(self), max(1, _SAMPLE_BYTES // self._maps[0][0].nbytes))
        return self.gather(np.linspace(0, len(self) - 1, count).round().astype(np.int64))


class FeatureDataset(Dataset[dict[str, Any]]):
    """Backbone features and labels for the Trainer: `features` as the head consumes them, `labels` (num_labels,).

    Of several views of an image an epoch shows one, the next epoch the next: an epoch stays one pass over the images,
    a probe trained for as many steps is as good as with every view in every epoch, and nothing is drawn, so that a
    resumed run sees what one without a break would see.
    """

    def __init__(self, features: Tensor | MappedRows, labels: NDArray[Any], views: int = 1) -> None:
        """Hold features and labels.

        Args:
            features: Shape (n * views, width) or (n * views, positions, width); all views of an image in a row.
            labels: Shape (n, num_labels).
            views: How many there are of an image.

        Raises:
            HalflabelError: If the numbers of rows do not fit.
        """
        if len(features) != len(labels) * views:
            raise HalflabelError(f"{len(features)} rows of features do not fit {len(labels)} images in {views} view(s)")
        self.features = features
        self.labels = labels
        self.views = views
        self.pseudo_labels: dict[str, Any] | None = None  # how unknown labels were filled, where they were
        self._epoch = Epoch()

    def set_epoch(self, epoch: int) -> None:
        """Show the views of an epoch, counted from 0."""
        self._epoch.set(epoch)

    def sample(self) -> Tensor:
        """Return features for means and standard deviations: all in memory, of those on disk up to 256 MiB."""
        return self.features if isinstance(self.features, Tensor) else self.features.sample()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one image's view of this epoch; a batch mixes views."""
        view = (position + int(self._epoch)) % self.views
        return {"features": self.features[position * self.views + view], "labels": self.labels[position]}
