"""Scores of any number of pictures, written in parts: memory stays flat, and a run that was stopped goes on."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from ..data.files import whole_file, write_whole
from ..model.errors import HalflabelError, shortlist
from ..training.features import process_state
from .prediction import YES, Scorer

log = logging.getLogger(__name__)

OUTPUT_ENDINGS = (".csv", ".jsonl", ".parquet")
PART_SIZE = 4096
"""How many pictures a part holds."""

_ABOUT = "_predict.json"  # readers of a folder of Parquet files pass over names that start with _
_SKIPPED = b"halflabel.skipped"


def check_output(path: str) -> None:
    """Refuse an output that is neither a folder (it ends in /) nor has one of `OUTPUT_ENDINGS`, before any work."""
    if not path.endswith(("/", os.sep)) and Path(path).suffix not in OUTPUT_ENDINGS:
        raise HalflabelError(
            f"output {path!r} ends in none of {', '.join(OUTPUT_ENDINGS)}, nor in / for a folder of Parquet files"
        )


def score_to(
    scorer: Scorer,
    files: Sequence[str],
    output: str,
    resume: bool = False,
    part_size: int = PART_SIZE,
) -> tuple[int, list[str]]:
    """Score picture files into one file, or into a folder of Parquet files, one for each `part_size` pictures.

    Parts are written whole or not at all. Of several processes each scores parts of its own; the main one joins them
    to one file where that is asked for, from a folder beside it, which is then removed. The order is that of `files`.

    Args:
        scorer: The model.
        files: Pictures.
        output: A path that ends in .csv, .jsonl, .parquet, or in / for a folder.
        resume: Keep the parts that an earlier run of the same model over the same files has written.
        part_size: How many pictures a part holds, at least 1.

    Returns:
        How many pictures were scored, and a line for each that was skipped, over all parts and processes.

    Raises:
        HalflabelError: If there are parts of an earlier run and `resume` does not say so, or they are those of another
            model or other files; and if a part cannot be written: the others are kept.
    """
    check_output(output)
    state, whole = process_state(), not output.endswith(("/", os.sep))
    folder = Path(f"{output}.parts" if whole else output)
    parts = [range(at, min(at + part_size, len(files))) for at in range(0, len(files), part_size)]
    paths = [folder / f"part-{number:06}.parquet" for number in range(len(parts))]
    try:
        if state.is_main_process:
            _prepare_folder(folder, _describe(scorer, files, part_size), resume)
        state.wait_for_everyone()
        _score_parts(scorer, files, list(zip(paths, parts, strict=True)), state)
        state.wait_for_everyone()
        found = _sum_up(paths)
        state.wait_for_everyone()
        if whole and state.is_main_process:
            _join(paths, Path(output), _schema(scorer))
            shutil.rmtree(folder)
        state.wait_for_everyone()
    except OSError as error:
        raise HalflabelError(f"{error}; finished parts are kept in {folder}: go on with --resume") from error
    return found


def _describe(scorer: Scorer, files: Sequence[str], part_size: int) -> dict[str, Any]:
    """Return all that scores depend on."""
    weights = hashlib.sha256()
    for name, tensor in sorted(scorer.model.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    listed = hashlib.sha256()
    for file in files:
        listed.update(file.encode("utf-8", "surrogateescape") + b"\0")
    config = {key: value for key, value in scorer.model.config.to_dict().items() if key != "_name_or_path"}
    weights.update(json.dumps(config, sort_keys=True, default=str).encode())
    return {
        "model": weights.hexdigest(),
        "labels": scorer.labels,
        "pictures": len(files),
        "files": listed.hexdigest(),
        "part_size": part_size,
        "decoded_for": scorer.side,
    }


def _prepare_folder(folder: Path, about: dict[str, Any], resume: bool) -> None:
    """Make the folder of parts, or see that those in it belong to this run."""
    path = folder / _ABOUT
    if path.is_file():
        if not resume:
            raise HalflabelError(f"{folder} holds an earlier run: add --resume to go on with it, or remove it")
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key, value in about.items() if before.get(key) != value]
        if differing:
            raise HalflabelError(f"{folder} holds a run of other {shortlist(differing)}: remove it, or change --output")
    elif folder.is_dir() and any(folder.iterdir()):
        raise HalflabelError(f"{folder} holds other files: give a new folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(about, indent=1) + "\n")


def _score_parts(
    scorer: Scorer,
    files: Sequence[str],
    parts: Sequence[tuple[Path, range]],
    state: PartialState,
) -> None:
    """Score this process's share of what is not there yet."""
    missing = [(path, rows) for path, rows in parts if not path.is_file()]
    mine = missing[state.process_index :: state.num_processes]
    done, schema = len(parts) - len(missing), _schema(scorer)
    if done and state.is_main_process:
        log.info("%d of %d parts are there already", done, len(parts))
    total = sum(len(rows) for _, rows in mine)
    with tqdm(total=total, desc="predict", unit="image", disable=not state.is_main_process) as progress:
        for path, rows in mine:
            some = slice(rows.start, rows.stop)
            frame, skipped = scorer.score(files[some], progress.update)
            table = pa.Table.from_pandas(frame, schema, preserve_index=False)
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), _SKIPPED: json.dumps(skipped)})
            with whole_file(path) as unfinished:
                pq.write_table(table, unfinished)


def _schema(scorer: Scorer) -> pa.Schema:
    """Return the columns, which a part without a readable picture does not show."""
    columns = [("file_name", pa.string()), (YES, pa.list_(pa.string()))]
    return pa.schema(columns + [(label, pa.float64()) for label in scorer.labels])


def _sum_up(paths: Sequence[Path]) -> tuple[int, list[str]]:
    scored, skipped = 0, []
    for path in paths:
        footer = pq.read_metadata(path)
        scored += footer.num_rows
        skipped += json.loads(footer.metadata[_SKIPPED])
    return scored, skipped


def _join(paths: Sequence[Path], output: Path, schema: pa.Schema) -> None:
    """Write all parts as one file, a part in memory at a time."""
    output.parent.mkdir(parents=True, exist_ok=True)
    tables = (pq.read_table(path) for path in paths)
    with whole_file(output) as unfinished:
        if output.suffix == ".parquet":
            _join_parquet(tables, schema, unfinished)
        else:
            _join_text((table.to_pandas() for table in tables), output.suffix == ".csv", unfinished)


def _join_parquet(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


def _join_text(frames: Iterable[pd.DataFrame], csv: bool, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, frame in enumerate(frames):
            if csv:
                write_csv(frame, file, header=number == 0)
            else:
                frame.to_json(file, orient="records", lines=True, double_precision=15)


def write_csv(frame: pd.DataFrame, file: Any, header: bool = True) -> None:  # noqa: ANN401 - what pandas writes to
    r"""Write a table of scores as CSV: labels answered with yes are joined by |.

    `frame["answered_yes"].str.get_dummies()` of pandas takes them apart; a | within a name is written \|. File names
    and labels are written as they are, also such as begin with = and would be formulas in a spreadsheet: programs read
    them back, so in a spreadsheet import the columns as text.
    """
    frame.assign(**{YES: frame[YES].map(_joined)}).to_csv(file, index=False, header=header)


def _joined(names: Sequence[str]) -> str:
    return "|".join(name.replace("|", "\\|") for name in names)
