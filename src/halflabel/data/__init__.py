"""From any annotation to pictures with known and unknown labels, their splits and their pixels."""

from .images import AnnotatedImages, from_records
from .loading import load_source
from .pixels import PixelDataset, collate
from .source import Source

__all__ = ["AnnotatedImages", "PixelDataset", "Source", "collate", "from_records", "load_source"]
