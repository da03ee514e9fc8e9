"""Annotation formats, a file each; every one gives `AnnotatedImages`."""

from .annotated_images import AnnotatedImages, from_records
from .loading import load_source
from .source import Source
from .table import read_table

__all__ = ["AnnotatedImages", "Source", "from_records", "load_source", "read_table"]
