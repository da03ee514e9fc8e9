"""What the commands share: sources as they are typed, and outputs that can be written."""

import json
import os
from pathlib import Path
from typing import Any

from ..model.errors import HalflabelError


def read_source(given: str) -> Any:  # noqa: ANN401 - a path or a mapping
    """Return a source as given, or the mapping that it is in JSON."""
    if not given.lstrip().startswith("{"):
        return given
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise HalflabelError(f"source {given!r} is not JSON: {error}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch, or Python, could not allocate what was asked for."""
    words = ("can't allocate memory", "Cannot allocate memory")
    return (
        isinstance(error, MemoryError)
        or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
        or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
    )


def check_outputs(file: str | Path | None, folder: Path | None = None) -> None:
    """Refuse, before any work is done for it, an output that cannot be written; folders that are missing are made."""
    for place in (folder, None if file is None else Path(file).parent):
        if place is not None:
            if place.exists() and not place.is_dir():
                raise HalflabelError(f"{place} is a file; a folder is needed there")
            place.mkdir(parents=True, exist_ok=True)
            if not os.access(place, os.W_OK):
                raise HalflabelError(f"{place} cannot be written to")
    if file is not None and Path(file).is_dir():
        raise HalflabelError(f"{file} is a folder; give the name of a file")
