"""Scores and decisions for pictures on disk: as a table, or any number of them written in parts, which can go on."""

import glob
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from PIL import Image
from tqdm.auto import tqdm

from ..data.files import LOCK, UNFINISHED, file_identity, whole_file, write_whole
from ..data.pixels import sole_run
from ..model.decisions import check_logits
from ..model.errors import HalflabelError, nearest_file, printable, reason_of, shortlist
from ..model.image_processing_timm_multilabel import decode_image
from ..model.labels import LabelSpace
from ..training.cache import hash_parts, hash_weights
from ..training.features import Network, batch_limit, process_state, run_in_threads
from .inference import Name, SavedModel, open_model

log = logging.getLogger(__name__)

YES = "answered_yes"
"""The column of a score table with the labels whose decision is yes."""

PART_SIZE = 4096
_ENDINGS = (".csv", ".jsonl", ".parquet")
_ABOUT = "_predict.json"  # readers of a folder of Parquet files pass over names that start with _
_SKIPPED = b"halflabel.skipped"
_UNREADABLE = (".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".dcm")
"""Endings of pictures that Pillow alone cannot read: they are told as skipped, not passed over."""


def predict(
    model: Name | SavedModel,
    images: Name | Sequence[Name] | pd.DataFrame,
    output: Name | None = None,
    *,
    image_folder: str | None = None,
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
    part_size: int = PART_SIZE,
    resume: bool = False,
    fast_decode: bool = True,
) -> pd.DataFrame | Path:
    """Score pictures and decide.

    Args:
        model: A folder, a Hub name, or what is open already.
        images: A folder, a glob, a file, several of these, or a frame with a column `file_name`.
        output: A path that ends in .csv, .jsonl, .parquet, or in / for a folder of Parquet files, one a part; None:
            nothing is written.
        image_folder: What the file names of a frame are relative to.
        labels: The labels to score, in this order; None: all.
        batch_size: The most pictures at once.
        part_size: How many pictures a part holds, which is written whole or not at all.
        resume: Keep the parts that an earlier run of the same model over the same files has written, which have not
            changed since.
        fast_decode: Decode a JPEG no larger than the transform needs.

    Returns:
        The output's path; without one a table in the order of the files: `file_name`, `answered_yes` (the list of the
        labels whose decision is yes) and a column of calibrated scores (0..1) per label. A picture that cannot be read
        is left out, logged, and told in `table.attrs["skipped"]`.

    Raises:
        HalflabelError: If there is no such model or picture, if a label is not the model's, if a logit is not finite,
            on another ending of the output; and as `score_to`.
    """
    if output is not None and not str(output).endswith((*_ENDINGS, "/", os.sep)):
        listed = ", ".join(_ENDINGS)
        raise HalflabelError(f"output {str(output)!r} ends in none of {listed}, nor in / for a folder of Parquet files")
    if isinstance(images, pd.DataFrame):
        files = [os.path.join(image_folder or "", name) for name in images["file_name"]]  # noqa: PTH118
    else:
        files = find_images([images] if isinstance(images, str | os.PathLike) else images)
    scorer = Scorer(model, labels, batch_size, fast_decode)
    if output is None:
        table, skipped = scorer.score(files)
        table.attrs["skipped"] = skipped
    else:
        _, skipped = score_to(scorer, files, str(output), resume, part_size)
    for line in skipped:
        log.warning("skipped: %s", line)
    return table if output is None else Path(output)


def find_images(paths: Iterable[Name]) -> list[str]:
    """List picture files: a folder's (by ending, with those of its subfolders), a glob's, or the files themselves.

    Raises:
        HalflabelError: If a path leads to nothing.
    """
    found: list[str] = []
    for path in (os.fspath(given) for given in paths):
        if os.path.isdir(path):
            here = sorted(_pictures_in(path), key=lambda file: file.split(os.sep))
        elif os.path.isfile(path):
            here = [os.path.normpath(path)]
        else:
            here = [os.path.normpath(file) for file in sorted(glob.glob(path, recursive=True)) if os.path.isfile(file)]
        if not here:
            gone = "" if os.path.exists(path) or glob.has_magic(path) else nearest_file(path)
            raise HalflabelError(f"no pictures at {path!r}: give a folder, a glob or files{gone}")
        found += here
    return list(dict.fromkeys(found))


def _pictures_in(folder: str) -> Iterator[str]:
    endings = {*Image.registered_extensions(), *_UNREADABLE}
    for at, _, names in os.walk(os.path.normpath(folder)):
        for name in names:
            if os.path.splitext(name)[1].lower() in endings and os.path.isfile(file := os.path.join(at, name)):
                yield file


class Scorer:
    """A model that scores picture files, and decides.

    Without stored decisions scores are the plain sigmoid, and yes is a score of at least 0.5. The model runs on the
    accelerator where there is one; see `Network`.
    """

    def __init__(
        self,
        model: Name | SavedModel,
        labels: Sequence[str] | None = None,
        batch_size: int = 32,
        fast_decode: bool = True,
    ) -> None:
        """Open the model; arguments and errors are those of `predict`."""
        saved = open_model(model)
        self.model, processor = saved.model, saved.processor
        self.space = self.model.config.label_space
        self.labels = list(LabelSpace(labels).names if labels else self.space.names)
        self.columns = [self.space.index(label) for label in self.labels]
        clash = set(self.labels) & {"file_name", YES}
        if clash:
            raise HalflabelError(f"label {min(clash)!r} is another column of score tables; name others by --labels")
        columns = [("file_name", pa.string()), (YES, pa.list_(pa.string()))]
        self.schema = pa.schema(columns + [(label, pa.float64()) for label in self.labels])
        self.transform = processor.eval_transform()
        self.side = processor.needed_side() if fast_decode else None
        torch.nn.Module.to(self.model, process_state().device)
        torch.nn.Module.to(self.model, memory_format=torch.channels_last)
        self.batch_size = batch_limit(self.model.device, batch_size)
        self.network = Network(self.model, lambda model, pixels: model(pixel_values=pixels).logits)

    def score(
        self, files: Sequence[str], advance: Callable[[int], Any] = lambda count: None
    ) -> tuple[pd.DataFrame, list[str]]:
        """Return the table of picture files, see `predict`, and a line for each that cannot be read and was skipped.

        After each batch `advance` is called with its number of files.
        """
        batches = [range(at, min(at + self.batch_size, len(files))) for at in range(0, len(files), self.batch_size)]
        logits, kept, skipped = [np.empty((0, len(self.space)))], [], []
        found = run_in_threads(lambda rows: (rows, *self._read_and_run(files, rows)), batches, self.model.device)
        for rows, read, made, errors in found:
            kept += read
            skipped += errors
            logits.append(made)
            advance(len(rows))
        return self._table([files[row] for row in kept], np.concatenate(logits)), skipped

    def _read_and_run(self, files: Sequence[str], rows: Sequence[int]) -> tuple[list[int], Any, list[str]]:
        """Return which of the rows can be read, their logits, and a line for each other one."""
        pixels, kept, errors = [], [], []
        for row in rows:
            try:
                _check_name(files[row])
                pixels.append(self.transform(decode_image({"path": files[row]}, shortest_side=self.side)))
                kept.append(row)
            except HalflabelError as error:
                errors.append(str(error))
        made = self.network(torch.stack(pixels)) if pixels else torch.empty(0, len(self.space))
        logits = made.double().numpy()
        check_logits(logits, self.space.names, [files[row] for row in kept])
        return kept, logits, errors

    def _table(self, names: Sequence[str], logits: Any) -> pd.DataFrame:  # noqa: ANN401
        rule, chosen = self.model.config.decision_rule, np.array(self.labels)
        scores = rule.scores(logits)
        answers = [chosen[row].tolist() for row in rule.decide(scores)[:, self.columns]]
        table = pd.DataFrame(scores[:, self.columns], columns=chosen)
        table.insert(0, "file_name", names)
        table.insert(1, YES, pd.Series(answers, dtype=object))  # of none pandas would make a column of numbers
        return table

    def describe(self, files: Sequence[str], part_size: int) -> dict[str, Any]:
        """Return all that the scores of files depend on."""
        listed = hashlib.sha256()
        for file in files:
            listed.update(f"{file}\0{_identity(file)}\0".encode("utf-8", "surrogateescape"))
        config = {key: str(value) for key, value in self.model.config.to_dict().items() if key != "_name_or_path"}
        return {
            "model": hash_parts({"weights": hash_weights(self.model), "config": config}),
            "labels": self.labels,
            "pictures": len(files),
            "files": listed.hexdigest(),
            "part_size": part_size,
            "decoded_for": self.side,
        }


def _check_name(file: str) -> None:
    """Refuse the name of a picture that no table can hold."""
    try:
        file.encode()
    except UnicodeEncodeError as error:
        raise HalflabelError(f"image {printable(file)} cannot be read: its name is not UTF-8") from error


def _identity(file: str) -> str:
    """Return what tells a picture from what is called so later; "" where it cannot be read, and will be skipped."""
    try:
        return file_identity(file)
    except (OSError, ValueError):
        return ""


def score_to(
    scorer: Scorer, files: Sequence[str], output: str, resume: bool = False, part_size: int = PART_SIZE
) -> tuple[int, list[str]]:
    """Score picture files into one file, or into a folder of Parquet files; for the arguments see `predict`.

    Of several processes each scores parts of its own; the main one joins them to one file where that is asked for, from
    a folder beside it, which is then removed. The order is that of `files`.

    Returns:
        How many pictures were scored, and a line for each that was skipped, over all parts and processes.

    Raises:
        HalflabelError: If there are parts of an earlier run and `resume` does not say so, or they are those of another
            model or other files; and if a part cannot be written: the others are kept.
    """
    state, whole = process_state(), not output.endswith(("/", os.sep))
    folder = Path(f"{output}.parts" if whole else output)
    parts = [range(at, min(at + part_size, len(files))) for at in range(0, len(files), part_size)]
    paths = [folder / f"part-{number:06}.parquet" for number in range(len(parts))]
    try:
        with sole_run(folder):
            if state.is_main_process:
                _prepare_folder(folder, scorer.describe(files, part_size), resume)
                _remove_damaged([path for path in paths if path.is_file()])
            state.wait_for_everyone()
            _score_parts(scorer, files, list(zip(paths, parts, strict=True)), state)
            state.wait_for_everyone()
            footers = [pq.read_metadata(path) for path in paths]
            state.wait_for_everyone()
            if whole and state.is_main_process:
                _join(paths, Path(output), scorer.schema)
                shutil.rmtree(folder)
            state.wait_for_everyone()
    except OSError as error:
        raise HalflabelError(f"{error}; finished parts are kept in {folder}: go on with --resume") from error
    skipped = [line for footer in footers for line in json.loads(footer.metadata[_SKIPPED])]
    return sum(footer.num_rows for footer in footers), skipped


def _prepare_folder(folder: Path, about: dict[str, Any], resume: bool) -> None:
    """Make the folder of parts, or see that those in it belong to this run."""
    path = folder / _ABOUT
    for left in folder.glob(UNFINISHED):  # of a run that was killed
        left.unlink()
    if path.is_file():
        if not resume:
            raise HalflabelError(f"{folder} holds an earlier run: add --resume to go on with it, or remove it")
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise HalflabelError(
                f"{path} is damaged, so nobody knows what the parts are of: remove {folder}"
            ) from error
        differing = [key for key, value in about.items() if before.get(key) != value]
        if differing:
            raise HalflabelError(f"{folder} holds a run of other {shortlist(differing)}: remove it, or change --output")
    elif folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise HalflabelError(f"{folder} holds other files: give a new folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(about, indent=1) + "\n")


def _remove_damaged(parts: Sequence[Path]) -> None:
    """Remove parts that an earlier run has written and that are not whole any more: they are made again."""
    for path in parts:
        try:
            json.loads(pq.read_table(path, page_checksum_verification=True).schema.metadata[_SKIPPED])
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            log.warning("%s is damaged and made again: %s", path, reason_of(error, first_line=True))
            path.unlink()


def _score_parts(
    scorer: Scorer, files: Sequence[str], parts: Sequence[tuple[Path, range]], state: PartialState
) -> None:
    """Score this process's share of what is not there yet."""
    missing = [(path, rows) for path, rows in parts if not path.is_file()]
    state.wait_for_everyone()  # or one that looks later would find parts that another has just written
    mine = missing[state.process_index :: state.num_processes]
    if len(missing) < len(parts) and state.is_main_process:
        log.info("%d of %d parts are there already", len(parts) - len(missing), len(parts))
    total = sum(len(rows) for _, rows in mine)
    with tqdm(total=total, desc="predict", unit="image", disable=not state.is_main_process) as progress:
        for path, rows in mine:
            frame, skipped = scorer.score(files[rows.start : rows.stop], progress.update)
            table = pa.Table.from_pandas(frame, scorer.schema, preserve_index=False)
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), _SKIPPED: json.dumps(skipped)})
            part = io.BytesIO()
            pq.write_table(table, part, write_page_checksum=True)
            write_whole(path, part.getvalue())


def _join(paths: Sequence[Path], output: Path, schema: pa.Schema) -> None:
    r"""Write all parts as one file, a part in memory at a time.

    In CSV the labels answered with yes are joined by |, which `str.get_dummies()` of pandas takes apart; a | within a
    name is written \|. File names and labels are written as they are, also such as begin with = and would be formulas
    in a spreadsheet: programs read them back, so in a spreadsheet import the columns as text.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    tables = (pq.read_table(path) for path in paths)
    with whole_file(output) as draft:
        if output.suffix == ".parquet":
            with pq.ParquetWriter(draft, schema) as writer:
                for table in tables:
                    writer.write_table(table.cast(schema))
            return
        with draft.open("w", encoding="utf-8", newline="") as file:
            for number, table in enumerate(tables):
                frame = table.to_pandas()
                if output.suffix == ".csv":
                    frame[YES] = frame[YES].map(lambda names: "|".join(name.replace("|", "\\|") for name in names))
                    frame.to_csv(file, index=False, header=number == 0)
                else:
                    frame.to_json(file, orient="records", lines=True, double_precision=15)
