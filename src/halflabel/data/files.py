"""Files that are there as a whole or not at all."""

import os
import shutil
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file as a whole or, where writing fails, leave the one that is there; its permissions stay.

    Args:
        path: The file; its folder must be there.
        content: A text is written as UTF-8 with line ends as they are.

    Raises:
        OSError: If the disk is full, or the folder cannot be written to.
    """
    place = Path(path)
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        if place.exists():
            shutil.copymode(place, draft)
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)
