"""Scores and decisions for pictures that lie on disk."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ..model.errors import HalflabelError, nearest_file
from ..model.image_processing_timm_multilabel import decode_image
from ..model.labels import LabelSpace
from ..training.features import Network, batch_limit, process_state, run_in_threads
from .inference import load_model

YES = "answered_yes"
"""The column of a score table with the labels whose decision is yes."""


def find_images(paths: Sequence[str]) -> list[str]:
    """List picture files: a folder's (by ending, with those of its subfolders), a glob's, or the files themselves.

    Raises:
        HalflabelError: If a path leads to nothing.
    """
    found: list[str] = []
    for path in paths:
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
    endings = Image.registered_extensions()
    for at, _, names in os.walk(os.path.normpath(folder)):
        for name in names:
            if os.path.splitext(name)[1].lower() in endings and os.path.isfile(file := os.path.join(at, name)):
                yield file


class Scorer:
    """A model that scores picture files, and decides.

    Without stored decisions scores are the plain sigmoid, and yes is a score of at least 0.5. The model runs on the
    accelerator where there is one; see `network_threads`.
    """

    def __init__(
        self, name: str, labels: Sequence[str] | None = None, batch_size: int = 32, fast_decode: bool = True
    ) -> None:
        """Load the model.

        Args:
            name: A model's folder or Hub name.
            labels: The labels to score, in this order; None: all.
            batch_size: The most pictures at once.
            fast_decode: Decode a JPEG no larger than the transform needs.

        Raises:
            HalflabelError: If there is no such model, or a label is not the model's, given twice, or called like
                another column.
        """
        self.name = name
        self.model, processor = load_model(name)
        self.space = self.model.config.label_space
        self.labels = list(LabelSpace(labels).names if labels else self.space.names)
        self.columns = [self.space.index(label) for label in self.labels]
        clash = set(self.labels) & {"file_name", YES}
        if clash:
            raise HalflabelError(f"label {min(clash)!r} is another column of score tables; name others by --labels")
        self.transform = processor.eval_transform()
        self.side = processor.needed_side() if fast_decode else None
        torch.nn.Module.to(self.model, process_state().device)
        torch.nn.Module.to(self.model, memory_format=torch.channels_last)
        self.batch_size = batch_limit(self.model.device, batch_size)
        self.network = Network(self.model, _logits)

    def score(
        self, files: Sequence[str], advance: Callable[[int], Any] = lambda count: None
    ) -> tuple[pd.DataFrame, list[str]]:
        """Score picture files; see `predict_files`.

        Args:
            files: Pictures; one that cannot be read is skipped and reported.
            advance: Called after each batch with its number of files.
        """
        batches = [range(at, min(at + self.batch_size, len(files))) for at in range(0, len(files), self.batch_size)]
        logits, kept, skipped = [np.empty((0, len(self.space)))], [], []
        try:
            found = run_in_threads(lambda rows: (rows, *self._read_and_run(files, rows)), batches, self.model.device)
            for rows, read, made, errors in found:
                kept += read
                skipped += errors
                logits.append(made)
                advance(len(rows))
        except torch.OutOfMemoryError as error:
            raise HalflabelError(
                f"{self.batch_size} pictures at once do not fit into the memory of {self.model.device}: "
                "give a smaller --batch_size"
            ) from error
        return self._frame([files[row] for row in kept], np.concatenate(logits)), skipped

    def _read_and_run(self, files: Sequence[str], rows: Sequence[int]) -> tuple[list[int], Any, list[str]]:
        """Return which of the rows can be read, their logits, and a line for each other one."""
        pixels, kept, errors = [], [], []
        for row in rows:
            try:
                pixels.append(self.transform(decode_image({"path": files[row]}, shortest_side=self.side)))
                kept.append(row)
            except HalflabelError as error:
                errors.append(str(error))
        made = self.network(torch.stack(pixels)) if pixels else torch.empty(0, len(self.space))
        return kept, made.double().numpy(), errors

    def _frame(self, names: Sequence[str], logits: Any) -> pd.DataFrame:  # noqa: ANN401
        rule, chosen = self.model.config.decision_rule, np.array(self.labels)
        scores = rule.scores(logits)
        decisions = rule.decide(scores)
        frame = pd.DataFrame(scores[:, self.columns], columns=chosen)
        frame.insert(0, "file_name", names)
        frame.insert(1, YES, _lists(chosen[row] for row in decisions[:, self.columns]))
        return frame


def _lists(names: Iterable[Any]) -> pd.Series:
    return pd.Series(
        [some.tolist() for some in names], dtype=object
    )  # where there are none, pandas takes it for numbers


def _logits(model: Any, pixels: Tensor) -> Tensor:  # noqa: ANN401 - a halflabel model
    logits: Tensor = model(pixel_values=pixels).logits
    return logits


def predict_files(
    name: str,
    files: Sequence[str | Path],
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
    fast_decode: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """Score picture files and decide; for more than memory holds, see `score_files.score_to`.

    Args:
        name: A model's folder or Hub name.
        files: Pictures; one that cannot be read is skipped and reported.
        labels: The labels to score, in this order; None: all.
        batch_size: The most pictures at once.
        fast_decode: Decode a JPEG no larger than the transform needs.

    Returns:
        A table in the order of the files: `file_name`, `answered_yes` (the list of those labels whose decision is yes)
        and a column of calibrated scores (0..1) per label; and one line for each file that was skipped.

    Raises:
        HalflabelError: If there is no such model, or a label is not the model's.
    """
    scorer, paths = Scorer(name, labels, batch_size, fast_decode), [str(file) for file in files]
    return scorer.score(paths)
