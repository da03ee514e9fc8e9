"""Annotated pictures as a program gives them; `load_images` of `loading` takes the place of this file."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .images import AnnotatedImages
from .loading import load_source


def load_images(
    data: Any,  # noqa: ANN401
    image_folder: str | None = None,
    labels: Sequence[str] | None = None,
    max_train_images: int | None = None,
    max_test_images: int | None = None,
    uncertain_values: Sequence[str] = (),
    contradictions: str = "error",
) -> AnnotatedImages:
    """Load annotated pictures as `loading.load_source`; `data` may also be a pandas frame or `AnnotatedImages`.

    A frame has the columns of a table, and its file names are relative to `image_folder`.
    """
    one = data[0] if isinstance(data, list | tuple) and len(data) == 1 else data
    if isinstance(one, AnnotatedImages):
        return one.with_only(labels) if labels else one
    if isinstance(one, os.PathLike):
        data = os.fspath(one)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(one, pd.DataFrame):
            one.to_csv(table := Path(folder, "table.csv"), index=False)
            data, image_folder = {"path": str(table), "name": "table"}, image_folder or "."
        return load_source(
            data, image_folder, labels, max_train_images, max_test_images, uncertain_values, contradictions
        )
