"""What stands in annotated data: labels per source, pictures, duplicates, faults; as a dict and as text."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.labels import LabelCounts, count_labels
from .images import AnnotatedImages
from .merging import MergeReport, repeat_contradictions, same_images
from .pixels import inspect_pictures

_SHOWN, _LABELS_SHOWN = 20, 40
_LISTS = {
    "never_asked": "labels without a known entry",
    "one_answer": "labels that are only ever yes, or only ever no, and cannot be measured",
    "similar_names": "labels with near-identical names, kept apart",
    "unannotated": "images without a known entry",
    "duplicates": "images with equal content",
    "contradictions": "contradictions",
    "unreadable": "unreadable files",
}


def describe(
    images: AnnotatedImages, merged: MergeReport, pictures: bool = True, quiet: bool = False
) -> dict[str, Any]:
    """Return what stands in the data.

    Args:
        images: The merged data.
        merged: What the merge found.
        pictures: Open and decode every picture (a JPEG at an eighth of its size), which finds truncated files, and
            compare those of equal size.
        quiet: Show no progress bar.

    Returns:
        `images`, `splits`, `labels` (name -> known, positive, negative, uncertain), `sources` (name -> `images` and
        `labels`, as the source alone knows them), `never_asked` (labels without any known entry), `one_answer` (labels
        that are always yes or always no), `unannotated` (images without any known entry), `joined`, `contradictions`,
        `similar_names`; and of the pictures `sizes`, `formats`, `modes`, `unreadable`, `duplicates` (groups of equal
        content). Of one source alone `contradictions` are those of equal pictures.
    """
    names, files = images.label_space.names, images.column("file_name")
    counts = count_labels(images.labels)
    report: dict[str, Any] = {
        "images": len(images),
        "splits": dict(Counter(split or "not given" for split in images.column("split"))),
        "labels": _by_label(names, counts),
        "sources": {
            title: {"images": part.images, "labels": _by_label(part_names, part)}
            for title, (part_names, part) in merged.sources.items()
        },
        "never_asked": [name for name, known in zip(names, counts.known, strict=True) if not known],
        "one_answer": counts.one_answer(names),
        "unannotated": [str(file) for file in files[~(images.labels >= 0).any(axis=1)]],
        "joined": merged.joined,
        "contradictions": merged.contradictions,
        "similar_names": [list(group) for group in merged.similar_names],
    }
    if not pictures:
        return report
    same = same_images([images])
    if len(merged.parts) < 2:  # of several, merging has listed these
        report["contradictions"] = repeat_contradictions(images, same)
    return {**report, **_describe_pictures(images, same, quiet)}


def _by_label(names: tuple[str, ...], counts: LabelCounts) -> dict[str, dict[str, int]]:
    return {
        name: {key: int(getattr(counts, key)[i]) for key in ("known", "positive", "negative", "uncertain")}
        for i, name in enumerate(names)
    }


def _describe_pictures(images: AnnotatedImages, same: NDArray[np.int64], quiet: bool) -> dict[str, Any]:
    pictures = list(inspect_pictures(images, quiet))
    readable = [picture for picture in pictures if "error" not in picture]
    files, groups = images.column("file_name"), defaultdict(list)
    for row, first in enumerate(same):
        groups[first].append(str(files[row]))
    return {
        "sizes": _spread([picture["size"] for picture in readable]),
        "formats": dict(Counter(picture["format"] for picture in readable)),
        "modes": dict(Counter(picture["mode"] for picture in readable)),
        "unreadable": [picture["error"] for picture in pictures if "error" in picture],
        "duplicates": [group for group in groups.values() if len(group) > 1],
    }


def _spread(sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
    """Return smallest, median and largest width and height."""
    if not sizes:
        return {}
    spread = np.quantile(np.array(sizes), (0, 0.5, 1), axis=0).round().astype(int)
    return {"width": spread[:, 0].tolist(), "height": spread[:, 1].tolist()}


def render(report: Mapping[str, Any]) -> str:
    """Return the report as text: a table of labels, then what is to be known or mended."""
    splits = {"without a split" if name == "not given" else name: count for name, count in report["splits"].items()}
    lines = [f"{report['images']} images; " + ", ".join(f"{name}: {count}" for name, count in splits.items())]
    if len(report["sources"]) > 1:
        for title, source in report["sources"].items():
            lines += ["", f"source {title}: {source['images']} images", *_label_table(source["labels"])]
        lines += ["", "all sources"]
    lines += [*_label_table(report["labels"]), ""]
    for side, (low, middle, high) in report.get("sizes", {}).items():
        lines.append(f"{side}: {low} to {high} pixels, median {middle}")
    for key in ("formats", "modes"):
        if report.get(key):
            lines.append(f"{key}: " + ", ".join(f"{name} {count}" for name, count in report[key].items()))
    if report["joined"]:
        lines.append(f"joined: {report['joined']} images that stand in several sources")
    for key, heading in _LISTS.items():
        found = [" = ".join(item) if isinstance(item, list) else str(item) for item in report.get(key, [])]
        if found:
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            lines.append(f"{heading} ({len(found)}): {'; '.join(found[:_SHOWN])}{more}")
    return "\n".join(lines)


def _label_table(labels: Mapping[str, Mapping[str, int]]) -> list[str]:
    shown = list(labels.items())[:_LABELS_SHOWN]
    width = max(len(name) for name in (*(name for name, _ in shown), "label"))
    lines = [f"{'label':{width}} {'known':>9} {'yes':>9} {'no':>9} {'uncertain':>9}"]
    for name, c in shown:
        cells = (c["known"], c["positive"], c["negative"], c["uncertain"])
        lines.append(f"{name:{width}} " + " ".join(f"{cell:9}" for cell in cells))
    if len(labels) > len(shown):
        lines.append(f"... and {len(labels) - len(shown)} more labels: --report FILE.json has all of them")
    return lines
