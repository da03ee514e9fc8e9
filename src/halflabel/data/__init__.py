"""From any annotation to pictures with known and unknown labels, their splits and their pixels.

What other rooms and programs use is named in `__all__`; it is imported when it is asked for, so that reading a recipe
needs none of it.
"""

from importlib import import_module
from typing import Any

_PLACES = {
    "AnnotatedImages": "images",
    "FeatureDataset": "pixels",
    "PixelDataset": "pixels",
    "Reader": "loading",
    "READERS": "loading",
    "Source": "source",
    "assign_splits": "splitting",
    "collate": "pixels",
    "from_records": "images",
    "hide_labels": "splitting",
    "load_images": "loading",
    "load_sources": "loading",
    "parse_sources": "loading",
    "process_state": "pixels",
    "read_yaml": "files",
    "write_shards": "images",
    "write_table": "images",
    "write_whole": "files",
}
__all__ = list(_PLACES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class, a function or a table
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
