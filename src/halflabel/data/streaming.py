"""Pictures read as they come, from Parquet shards or the Hub; the training split is never held as a whole."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import ImageTransform, decode_image
from ..model.labels import LabelCounts, LabelSpace, count_labels
from .images import AnnotatedImages, check_split, from_records
from .loading import find_format
from .merging import map_codes
from .pixels import draw_seed, drawing
from .readers.hub import class_names, find_image_column, open_parts
from .readers.hub_labels import find_labels
from .readers.tables import Columns
from .source import Faults, Source, check_origins

_LABEL_ROWS, _PICTURE_ROWS = 4096, 8
_MANY_IMAGES, _MANY_WORDS = 20_000, 100
_ORDERS = 32  # so many passes have an order and augmentations of their own; then the first comes again
_PASS = "number of the pass"
EXAMPLES = 64
"""So many training pictures are kept at hand, to draw some of them."""
Targets = Callable[[NDArray[np.int8]], NDArray[Any]]


@dataclass(frozen=True)
class ImageStream:
    """A data set that is read as it comes.

    Attributes:
        source: Where from.
        parts: The rows of each part as the data set names them, pictures encoded.
        image_column: The name of the picture's column.
        label_space: The labels.
        counts: Per split what is known; only of splits that have images.
        rows_of: How many images of a split a part holds: (part, split) -> count.
    """

    source: Source
    parts: Mapping[str, datasets.IterableDataset]
    image_column: str
    label_space: LabelSpace
    counts: Mapping[str, LabelCounts] = field(default_factory=dict)
    rows_of: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def collect(self, limits: Mapping[str, int | None]) -> AnnotatedImages:
        """Return images, encoded in memory.

        Args:
            limits: The splits to take, and of each the largest number of images; None: all.
        """
        rows: list[dict[str, Any]] = []
        for split, most in limits.items():
            found = (row for part in self._parts_of(split) for row in self._rows(part, split))
            rows += islice(found, most)
        return from_records(rows, self.label_space.names)

    def training_rows(self, prepare: "PrepareRows", seed: int, buffer_size: int) -> datasets.IterableDataset:
        """Return the training rows for the Trainer, pass after pass without an end.

        In each pass every row comes once; shards come in a new order, and rows are shuffled within a buffer. Processes
        and workers share the shards.

        Args:
            prepare: Decodes and transforms.
            seed: The same seed gives the same order.
            buffer_size: From how many waiting rows the next one is drawn.
        """
        parts = [self._only(name, "train") for name in self._parts_of("train")]
        rows = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        # Filling the buffer from several shards mixes better, and costs seconds at the end of a pass.
        inputs = 10 if self.counts["train"].images >= _MANY_IMAGES else 1
        typed = datasets.Features({**rows.features, _PASS: datasets.Value("int16")})
        orders = [
            rows.shuffle(seed=seed * _ORDERS + i, buffer_size=buffer_size, max_buffer_input_shards=inputs).map(
                _number_rows, batched=True, batch_size=_PICTURE_ROWS, features=typed, fn_kwargs={"number": i}
            )
            for i in range(_ORDERS)
        ]
        rows = datasets.concatenate_datasets(orders).repeat(None)
        return rows.map(prepare, batched=True, batch_size=_PICTURE_ROWS, remove_columns=rows.column_names)

    def _parts_of(self, split: str) -> list[str]:
        return [name for name in self.parts if self.rows_of.get((name, split))]

    def _only(self, name: str, split: str) -> datasets.IterableDataset:
        """Return a part's rows of one split."""
        part = self.parts[name]
        if sum(count for (other, _), count in self.rows_of.items() if other == name) == self.rows_of[name, split]:
            return part
        return part.filter(
            lambda given: [one == split for one in _splits({"split": given}, name, self.source)],
            batched=True, batch_size=_PICTURE_ROWS, input_columns=["split"],
        )  # fmt: skip

    def _rows(self, part: str, split: str) -> Iterator[dict[str, Any]]:
        number = 0
        for batch in self.parts[part].iter(batch_size=_PICTURE_ROWS):
            codes = self.codes(batch)
            for i, effective in enumerate(_splits(batch, part, self.source)):
                number += 1
                if effective == split:
                    picture = batch[self.image_column][i]
                    name = _name(batch, i, picture) or f"{part} {number}"
                    yield {"image": picture, "file_name": name, "labels": codes[i], "split": split}

    def codes(self, batch: Mapping[str, Sequence[Any]]) -> NDArray[np.int8]:
        """Return the label codes of a batch of rows, shape (rows, num_labels)."""
        codes, space = _read_codes(self.source, _features(self.parts), batch)
        return codes[:, [space.index(name) for name in self.label_space.names]]


def _read_codes(
    source: Source, features: datasets.Features, batch: Mapping[str, Sequence[Any]]
) -> tuple[NDArray[np.int8], LabelSpace]:
    """Return what rows say, pictures left aside, under the source's own rules."""
    kept = {k: pa.array(batch[k], t) for k, t in _arrow_types(features).items() if k in batch}
    faults = Faults(source.title)
    columns = Columns(Path(source.title), pa.table(kept), faults)
    codes, names = find_labels(source, columns, dict(class_names(features)))
    faults.raise_any()
    space = LabelSpace(names)
    if source.labels:
        codes, space = codes[:, [space.index(name) for name in source.labels]], LabelSpace(source.labels)
    return map_codes(codes, space, source)


def _arrow_types(features: datasets.Features) -> dict[str, pa.DataType]:
    """Return the types of all columns but the pictures."""
    schema = features.arrow_schema
    return {name: schema.field(name).type for name in features if not isinstance(features[name], datasets.Image)}


def _number_rows(batch: Mapping[str, Sequence[Any]], number: int) -> dict[str, Any]:
    """Add to rows which pass they are read in, for `datasets.map`."""
    return {**batch, _PASS: [number] * len(next(iter(batch.values())))}


def _features(parts: Mapping[str, datasets.IterableDataset]) -> datasets.Features:
    return next(iter(parts.values())).features


def _splits(batch: Mapping[str, Sequence[Any]], part: str, source: Source) -> list[str]:
    """Return the split of each row: as the source is told, as the row says, or as its part is called."""
    rows = len(next(iter(batch.values())))
    given = batch.get("split") or [""] * rows
    return [source.split or check_split(str(one or part or "train")) for one in given]


def _name(batch: Mapping[str, Sequence[Any]], row: int, picture: Mapping[str, Any]) -> str:
    return str((batch["file_name"][row] if "file_name" in batch else None) or picture.get("path") or "")


@dataclass(frozen=True)
class PrepareRows:
    """Turns rows of a stream into what the collator takes: `pixel_values` and `labels`; for `datasets.map`.

    Attributes:
        stream: The stream.
        transform: From an RGB picture to a tensor.
        targets: From label codes to what is trained on.
        shortest_side: What the transform needs; None: pictures are decoded in full.
        skipped: Where a picture that cannot be read is noted, a line each, and left out; None: it is an error.
        seed: What the transform draws follows from it, the pass and the picture, whichever process draws.
    """

    stream: ImageStream
    transform: ImageTransform
    targets: Targets
    shortest_side: int | None = None
    skipped: Path | None = None
    seed: int = 0

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Decode and transform a batch of rows."""
        pixels, labels = [], []
        targets = self.targets(self.stream.codes(batch))
        for i, picture in enumerate(batch[self.stream.image_column]):
            try:
                decoded = decode_image(picture, _name(batch, i, picture), self.shortest_side)
            except HalflabelError as error:
                if self.skipped is None:
                    raise
                with self.skipped.open("a", encoding="utf-8") as lines:
                    lines.write(f"{error}\n")
                continue
            content = picture.get("bytes") or picture["path"].encode()
            with drawing(draw_seed(self.seed, batch[_PASS][i], xxhash.xxh3_64_hexdigest(content))):
                pixels.append(self.transform(decoded))
            labels.append(targets[i])
        return {"pixel_values": pixels, "labels": labels}


def open_stream(sources: Sequence[Source], labels: Sequence[str] | None = None) -> ImageStream:
    """Open a source and count its labels; of Parquet files only the columns without pictures are read for that.

    Args:
        sources: One source: a folder of Parquet files, a data set on disk, or one of the Hub.
        labels: The labels to use, by their names after `label_map`; None: all.

    Raises:
        HalflabelError: If there are several sources, or one of another format; if its labels are not clear from its
            column types; or if no row is for training.
    """
    if len(sources) != 1:
        raise HalflabelError(
            "streaming takes one source; put several together first: halflabel data A B --output shards/"
        )
    source = sources[0]
    form = find_format(source)
    if form != "datasets":
        raise HalflabelError(
            f"{source.path}: streaming needs Parquet shards or a data set of the Hub, and this is {form}; "
            f"halflabel data {source.path} --output shards/ writes shards"
        )
    parts = open_parts(source, streaming=True)
    features = _features(parts)
    if features is None:
        raise HalflabelError(f"{source.title}: the data set does not tell its column types, which streaming needs")
    image = find_image_column(source, features)
    _, space = _read_codes(source, features, {name: [] for name in features})
    if labels:
        space = LabelSpace([space.names[space.index(name)] for name in labels])
    encoded = {name: part.cast_column(image, datasets.Image(decode=False)) for name, part in parts.items()}
    return _counted(ImageStream(source, encoded, image, space))


def _counted(stream: ImageStream) -> ImageStream:
    """Read all columns but the picture's, once."""
    tally: dict[str, LabelCounts] = {}
    rows_of: dict[tuple[str, str], int] = defaultdict(int)
    wanted = [name for name in _features(stream.parts) if name != stream.image_column]
    words: dict[str, set[str]] = {name: set() for name in {"group", "source"}.intersection(wanted)}
    for name, part in open_parts(stream.source, True, wanted).items():
        for batch in part.iter(batch_size=_LABEL_ROWS):
            codes = stream.codes(batch)
            for column, found in words.items():
                if len(found) < _MANY_WORDS:  # of more it is known that they are no answers
                    found.update(str(word) for word in batch[column])
            splits = np.array(_splits(batch, name, stream.source), dtype=object)
            for split in set(splits):
                counts = count_labels(codes[splits == split])
                tally[split] = tally[split] + counts if split in tally else counts
                rows_of[name, split] += counts.images
    faults = Faults(stream.source.title)
    check_origins(stream.source, wanted, stream.label_space.names, words, faults)
    faults.raise_any()
    if "train" not in tally:
        raise HalflabelError(f"{stream.source.title}: it has no training rows")
    return replace(stream, counts=tally, rows_of=rows_of)
