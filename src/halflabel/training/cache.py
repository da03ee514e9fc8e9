"""Features that are kept: no picture goes through a frozen backbone twice.

A row is found again by a key of all that it depends on. Rows lie in shards, files that are written whole or not at all,
checked once, and read row by row where they lie; what is damaged is made again.
"""

import contextlib
import inspect
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from huggingface_hub.constants import HF_HOME
from numpy.typing import NDArray
from PIL import features as pillow_features
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..data.files import UNFINISHED, write_whole
from ..data.pixels import PixelDataset, draw_seed
from ..model import backbones, image_processing_timm_multilabel
from ..model.errors import HalflabelError
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

KEY_BYTES = 16
"""Length of the key of one row of features. 128 bits: no two of a billion rows share one."""

log = logging.getLogger(__name__)

"""Pattern of the files that are being written; only a killed process leaves one behind."""

_FORMAT = "halflabel features 1"
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
        split = tuple(keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES))
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
    matrix = torch.frombuffer(bytearray(joined), dtype=torch.uint8).reshape(len(keys), KEY_BYTES)
    tensors = {"features": features.contiguous(), "keys": matrix}
    plain = save(tensors)
    about = {
        "format": _FORMAT,
        "made_by": made_by,
        "keys": xxhash.xxh3_64_hexdigest(joined),
        "checksum": xxhash.xxh3_64_hexdigest(memoryview(plain)[8 + int.from_bytes(plain[:8], "little") :]),
    }
    write_whole(folder / f"shard-{xxhash.xxh3_128_hexdigest(joined)}.safetensors", save(tensors, about))


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


_ROWS_AT_ONCE = 256  # of a data set; with embedded pictures a few dozen megabytes


def backbone_parts(model: TimmMultiLabelForImageClassification) -> dict[str, Any]:
    """Return all of a model that its features depend on, for JSON; its head counts only by what it consumes.

    Args:
        model: On the device on which it is to run; devices round differently.
    """
    config, backbone = model.config, model.backbone
    device = model.device.type
    return {
        "backbone": config.backbone,
        "backbone_args": {key: str(value) for key, value in sorted((config.backbone_args or {}).items())},
        "structure": _digest(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(backbone))),
        "weights": hash_weights(backbone),
        "consumes": model.head.consumes,
        "dtype": str(model.dtype),
        "device": device,
        "tf32": device == "cuda" and torch.backends.cudnn.allow_tf32,  # the convolutions' precision on recent GPUs
        "matmul_precision": torch.get_float32_matmul_precision(),
        "code": _digest(inspect.getsource(type(model).extract_features) + inspect.getsource(backbones.to_positions)),
        "torch": torch.__version__,
        "timm": version("timm"),
    }


def hash_weights(module: nn.Module) -> str:
    """Return a hash of every parameter and buffer: name, type, shape and bytes; about 0.3 s a gigabyte."""
    digest = xxhash.xxh3_128()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Also a buffer that no checkpoint holds, and whatever the memory layout.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pixel_parts(pixels: PixelDataset) -> dict[str, Any]:
    """Return all that the pixels depend on beside the picture itself, for JSON: transform, decoding, and libraries.

    Args:
        pixels: Any transform that can be pickled will do; its settings are hashed, and of a function its code.
    """
    from datasets.fingerprint import Hasher  # not for who only predicts

    return {
        "transform": Hasher.hash(pixels.transform),
        "shortest_side": pixels.shortest_side,
        "code": _digest(inspect.getsource(image_processing_timm_multilabel)),
        "pillow": version("pillow"),
        "libjpeg_turbo": pillow_features.version("libjpeg_turbo"),
        "torchvision": version("torchvision"),
    }


def hash_parts(parts: Mapping[str, Any]) -> str:
    """Return one key for named parts, 32 hexadecimal digits."""
    return _digest(json.dumps(parts, sort_keys=True))


def row_keys(pixels: PixelDataset, views: Sequence[int] = (0,), seed: int = 0) -> Iterator[list[bytes]]:
    """Yield for each image the keys of its views, `KEY_BYTES` each.

    A picture in a file is known by path, size and time of change, an embedded one by its bytes. The order of the
    images, their labels and their splits do not matter.

    Args:
        pixels: The pictures, with the transform of these views.
        views: Their numbers; view 0 draws nothing, any other draws what `draws.draw_seed` says.
        seed: Of the draws.

    Raises:
        HalflabelError: If a picture's file is not there.
    """
    what = hash_parts(pixel_parts(pixels))
    for name, identity in _identities(pixels.dataset):
        drawn = (f"{draw_seed(seed, view, name)}" if view else "" for view in views)
        yield [xxhash.xxh3_128_digest(f"{what}|{draw}|{identity}".encode()) for draw in drawn]


def _identities(dataset: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - a data set of `datasets`
    """Yield each picture's name, and what tells it from any other picture."""
    columns = dataset.select_columns(["image", "file_name"]).with_format("arrow")
    for table in columns.iter(batch_size=_ROWS_AT_ONCE):
        pictures = table["image"].combine_chunks()
        rows = zip(
            table["file_name"].to_pylist(), pictures.field("bytes"), pictures.field("path").to_pylist(), strict=True
        )
        for name, content, path in rows:
            yield name, _identity(name, content, path)


def _identity(name: str, content: Any, path: str | None) -> str:  # noqa: ANN401 - a scalar of Arrow
    if content.is_valid:
        return xxhash.xxh3_128_hexdigest(content.as_buffer())  # the bytes where they lie, not a copy
    try:
        if path is None:
            raise ValueError("there are neither bytes nor a path")
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise HalflabelError(f"image {name or path} cannot be read: {error}") from error
    return f"{os.path.abspath(path)}|{found.st_size}|{found.st_mtime_ns}"


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())
