"""Annotation formats, a file each; every one gives `AnnotatedImages`."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import HalflabelError, did_you_mean
from .annotated_images import AnnotatedImages, from_records
from .table import ENDINGS, read_table

__all__ = ["AnnotatedImages", "from_records", "load_source", "read_table"]

EMBEDDED = "street_scenes"


def load_source(
    data: str,
    image_folder: str | None = None,
    labels: Sequence[str] | None = None,
    max_train_images: int | None = None,
    max_test_images: int | None = None,
    uncertain_values: Sequence[str] = (),
) -> AnnotatedImages:
    """Load one source of annotated pictures.

    Args:
        data: The path of a table, or `"street_scenes"` for the embedded, rendered sample.
        image_folder: What the table's file names are relative to; None: its own folder, or `images` in it.
        labels: The labels to use; None: all.
        max_train_images: Take only the first so many images of the training split (those without a split included).
        max_test_images: Likewise of the test split.
        uncertain_values: Cells of the table that mean uncertain: somebody looked and could not tell.

    Raises:
        HalflabelError: If there is no such source, or it has a fault; file, row and column are named.
    """
    if data == EMBEDDED:
        from .street_scenes import LABEL_NAMES, iterate_street_scenes

        sizes = {"train_images": max_train_images, "test_images": max_test_images}
        scenes = iterate_street_scenes(**{key: value for key, value in sizes.items() if value is not None})
        images = from_records(({**scene, "group": ""} for scene in scenes), LABEL_NAMES)
        return images.with_only(labels) if labels else images
    if not Path(data).suffix and not Path(data).exists():
        nearest = did_you_mean(data, [EMBEDDED])
        raise HalflabelError(f"data {data!r} is neither a table ({', '.join(ENDINGS)}) nor {EMBEDDED!r}{nearest}")
    images = read_table(data, image_folder, labels, uncertain_values)
    splits = images.column("split")
    taken: dict[str, int] = {}
    kept = []
    limits = {"train": max_train_images, "": max_train_images, "test": max_test_images}
    for i, split in enumerate(splits):
        taken[split] = taken.get(split, 0) + 1
        limit = limits.get(split)
        if limit is None or taken[split] <= limit:
            kept.append(i)
    return images if len(kept) == len(images) else images.select(kept)
