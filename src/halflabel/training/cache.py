"""Features that are kept: no picture goes through a frozen backbone twice.

A row is found again by a key of all that it depends on. Rows lie in shards, files that are written whole or not at all,
checked once, and read row by row where they lie; what is damaged is made again.
"""

import contextlib
import inspect
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from ..data.images import picture_identities
from ..data.pixels import PixelDataset, draw_seed
from ..model import backbones, image_processing_timm_multilabel
from ..model.errors import HalflabelError
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model

KEY_BYTES = 16
"""Length of the key of one row of features. 128 bits: no two of a billion rows share one."""

DEFAULT_FOLDER = Path(HF_HOME) / "halflabel" / "features"
"""Where features are kept if nobody says otherwise."""

log = logging.getLogger(__name__)

_SAMPLE_BYTES = 256 << 20
_ABANDONED_S = 3600  # writing a shard takes seconds
_WHAT = (
    "Features of pictures from the frozen backbone that made_by describes, kept by halflabel so that no picture goes "
    "through it twice. A shard holds features (float32, a row per picture and view) and keys (16 bytes a row: a hash "
    "of the picture, of its transform and of its random draws). This folder may be deleted at any time."
)


class FeatureFolder:
    """The shards of one backbone's features, which several processes may read and write at once.

    A shard is a safetensors file with `features` (float32, a row per key) and `keys` (uint8 of shape (rows, 16)). It is
    named by a hash of the backbone's key and of the whole file, so that damage and a file of another backbone show.

    Attributes:
        path: The folder; it need not exist.
    """

    def __init__(self, root: str | Path, made_by: Mapping[str, Any]) -> None:
        """Touch no file yet.

        Args:
            root: The folder of all backbones' features.
            made_by: What the features depend on, see `backbone_parts`; written beside the shards. Features of other
                parts are never used.
        """
        self._made_by, self._key = made_by, hash_parts(made_by)
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", made_by["backbone"])
        self.path = Path(root).expanduser() / f"{name}-{self._key[:16]}"
        self._whole: set[Path] = set()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, tuple[Path, int]]:
        """Return where the rows of these keys lie: a shard and a row of it; keys that are not there are left out.

        A shard that holds one is read through, once in this object's life. A damaged one is removed, and a warning
        says so; its rows are not there.

        Raises:
            HalflabelError: If a file cannot be opened or read.
        """
        wanted = set(keys)
        found: dict[bytes, tuple[Path, int]] = {}
        damaged = []
        for path in sorted(self.path.glob("shard-*.safetensors")):
            try:
                stored = open_mapped(path, "keys").numpy().tobytes()
                split = (stored[start : start + KEY_BYTES] for start in range(0, len(stored), KEY_BYTES))
                rows = {key: (path, row) for row, key in enumerate(split) if key in wanted}
                if rows and path not in self._whole:
                    with path.open("rb") as file:  # not through a map, whose pages would count as this process's memory
                        if self._name(iter(lambda: file.read(1 << 20), b"")) != path.name:  # noqa: B023 - used at once
                            raise ValueError("its bytes are not those that were written")
                    self._whole.add(path)
                found.update(rows)
            except FileNotFoundError:
                continue  # another process has just removed it
            except (SafetensorError, ValueError) as error:
                damaged.append(f"{path}: {error}")
                with contextlib.suppress(OSError):  # where nothing may be written, `prepare` will say so
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise HalflabelError(f"features in {path} cannot be read: {error}") from error
        if damaged:
            log.warning("%d damaged file(s) of features are made again, the first is %s", len(damaged), damaged[0])
        return found

    def prepare(self) -> None:
        """Make the folder, write what it is, and remove what killed processes left.

        Raises:
            HalflabelError: If it cannot be written to.
        """
        about = {"what": _WHAT, "key": self._key, "made_by": dict(self._made_by)}
        with self._told():
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "about.json", json.dumps(about, indent=1) + "\n")
        for rest in self.path.glob(UNFINISHED):
            with contextlib.suppress(OSError):  # another process may have just removed it
                if time.time() - rest.stat().st_mtime > _ABANDONED_S:
                    rest.unlink()

    def write(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Add a shard.

        Args:
            keys: One per row, 16 bytes each.
            features: float32 of shape (rows, *shape of a row).

        Raises:
            HalflabelError: If the disk is full, or the folder cannot be written to.
        """
        matrix = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), KEY_BYTES)
        content = save({"features": features.contiguous(), "keys": matrix})
        with self._told():
            write_whole(self.path / self._name([content]), content)

    def _name(self, content: Iterable[bytes]) -> str:
        digest = xxhash.xxh3_128(self._key.encode())
        for piece in content:
            digest.update(piece)
        return f"shard-{digest.hexdigest()}.safetensors"

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HalflabelError(
                f"features cannot be kept in {self.path} ({error.strerror or error}): set feature_cache to another "
                "folder, or to none to keep them in memory"
            ) from error


def open_mapped(shard: Path, name: str) -> Tensor:
    """Return a tensor of a shard; it lies in the mapped file, and nothing of it is read yet.

    Raises:
        SafetensorError: If the file is cut off, or no shard.
        FileNotFoundError: If it is not there.
    """
    with safe_open(shard, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


class MappedRows:
    """Rows of features in memory-mapped files: a row is read when it is asked for, and none is kept.

    Sent to another process, it maps the files there.

    Attributes:
        shape: (rows, *shape of a row).
    """

    def __init__(self, shards: Sequence[Path], where: NDArray[np.int64]) -> None:
        """Map the files.

        Args:
            shards: The files.
            where: Shape (rows, 2): the number of a shard, and of the row within it.

        Raises:
            FileNotFoundError: If a file is not there.
        """
        self._shards, self._where = list(shards), where
        self._maps = [open_mapped(shard, "features") for shard in shards]
        self.shape = (len(where), *self._maps[0].shape[1:])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._where)

    def __getitem__(self, row: int) -> Tensor:
        """Return one row, float32; it lies in the mapped file."""
        shard, position = self._where[row]
        found: Tensor = self._maps[shard][position]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the mapped memory behind; a pickle would hold all of it."""
        return MappedRows, (self._shards, self._where)

    def gather(self, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Read rows into memory, all of them where none are named; float32 of shape (rows, *shape of a row)."""
        where = self._where if rows is None else self._where[rows]
        gathered = torch.empty(len(where), *self.shape[1:])
        for number in np.unique(where[:, 0]):
            mine = np.flatnonzero(where[:, 0] == number)
            gathered[torch.from_numpy(mine)] = self._maps[number][torch.from_numpy(where[mine, 1])]
        return gathered

    def select(self, rows: NDArray[np.int64]) -> "MappedRows":
        """Return some rows, which stay on disk."""
        return MappedRows(self._shards, self._where[rows])

    def sample(self) -> Tensor:
        """Read all rows, or where they are more than 256 MiB as many evenly spaced ones: enough for their spread."""
        count = min(len(self), max(1, _SAMPLE_BYTES // self._maps[0][0].nbytes))
        return self.gather(np.linspace(0, len(self) - 1, count).round().astype(np.int64))


def backbone_parts(model: Model) -> dict[str, Any]:
    """Return all of a model that its features depend on, for JSON; its head counts only by what it consumes.

    Args:
        model: On the device on which it is to run; devices round differently.
    """
    config, backbone = model.config, model.backbone
    device = model.device.type
    return {
        "format": 2,  # of the shards
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

    Of the transform, which may be any that can be pickled, the settings are hashed, and of a function its code.
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

    A picture is known by path, size and times of change, an embedded one by its bytes. The order of the images, their
    labels and their splits do not matter.

    Args:
        pixels: The pictures, with the transform of these views.
        views: Their numbers; view 0 draws nothing, any other draws what `pixels.draw_seed` says.
        seed: Of the draws.

    Raises:
        HalflabelError: If a picture's file is not there.
    """
    what = hash_parts(pixel_parts(pixels))
    for name, path, identity in picture_identities(pixels.dataset):
        drawn = (f"{draw_seed(seed, view, name)}" if view else "" for view in views)
        yield [xxhash.xxh3_128_digest(f"{what}|{draw}|{path}|{identity}".encode()) for draw in drawn]


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())
