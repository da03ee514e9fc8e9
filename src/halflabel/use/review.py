"""Where a model and its annotations disagree, and which unknown entries it is surest and least sure about.

A model agrees with the mistakes that it was trained on. What is said of training pictures therefore comes from probes
on its features, each of which has not seen the picture.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..data.images import AnnotatedImages
from ..data.loading import load_images
from ..decide.decision_fitting import fit_decisions
from ..metrics.answers import check_thresholds
from ..metrics.entries import Floats, check_pair
from ..model.errors import HalflabelError
from ..model.labels import UNCERTAIN, evaluation_labels
from ..training.folds import probe_out_of_fold
from .inference import Name, SavedModel, choose_split, open_model, predict_logits

LOOKS_YES, LOOKS_NO = "known no, looks yes", "known yes, looks no"
SURELY_YES, SURELY_NO, LEAST_SURE = "unknown, surely yes", "unknown, surely no", "unknown, least sure"
KINDS = (LOOKS_YES, LOOKS_NO, SURELY_YES, SURELY_NO, LEAST_SURE)
_ANSWERS = {1: "yes", 0: "no", UNCERTAIN: "uncertain"}


@dataclass(frozen=True)
class Review:
    """What somebody should look at: `find_disagreements`'s table, its images, and a sentence about their splits."""

    table: pd.DataFrame
    images: AnnotatedImages
    about: str


def review(
    model: Name | SavedModel,
    data: Any,  # noqa: ANN401 - whatever `load_images` takes
    *,
    split: str | None = None,
    limit: int = 20,
    batch_size: int = 32,
    fast_decode: bool = True,
    **source: Any,  # noqa: ANN401
) -> Review:
    """Find likely annotation mistakes and what to annotate next, see `find_disagreements`.

    Pictures of the split `train`, or of none, are scored out of fold by `folds.probe_out_of_fold`, with thresholds of
    their own; others by the model. Of 5 % flipped answers, with 30 % known, the first 5 % then hold 0.61 on road signs
    (by the model itself 0.53) and 0.38 on scenes (0.37), see `tests/benchmarks/bench_review.py`. Where the backbone
    itself was trained on the answers, its features know some of their mistakes, and fewer are found.

    Arguments and errors are those of `evaluate.evaluate`; `limit` is the most entries of each kind.
    """
    if limit < 1:
        raise HalflabelError(f"limit is {limit!r}, expected at least 1")
    images = load_images(data, **source)
    saved = open_model(model)
    chosen, _ = choose_split(saved, images, split)
    rule, files = saved.model.config.decision_rule, chosen.column("file_name").tolist()
    scores, thresholds = np.empty(chosen.labels.shape), np.tile(rule.thresholds, (len(chosen), 1))
    seen = np.isin(chosen.column("split"), ("train", ""))
    trained, labels = chosen.select(np.flatnonzero(seen)), evaluation_labels(chosen.labels[seen])
    held_out = probe_out_of_fold(saved.model, saved.processor, trained, batch_size) if seen.any() else None
    if held_out is None:
        seen[:] = False
    else:
        own = fit_decisions(held_out, labels)
        scores[seen], thresholds[seen] = own.scores(held_out), own.thresholds
    if not seen.all():
        others = chosen.select(np.flatnonzero(~seen))
        scores[~seen] = rule.scores(predict_logits(saved, others, batch_size, fast_decode))
    table = find_disagreements(scores, chosen.labels, files, saved.label_names, thresholds, limit)
    return Review(table, chosen, _about_splits(chosen.column("split").tolist(), held_out is not None))


def find_disagreements(
    scores: ArrayLike,
    labels: ArrayLike,
    file_names: Sequence[str],
    names: Sequence[str],
    thresholds: ArrayLike,
    limit: int = 20,
) -> pd.DataFrame:
    """List likely annotation mistakes, and what to annotate next.

    Entries of all labels are ranked together: likely mistakes by the score of the answer that was given, the least
    first (as in cleanlab's self-confidence), unknown ones by how far the score is beyond the label's threshold
    (`margins`), which is defined for a label without known answers too.

    Args:
        scores: Shape (n, num_labels); probabilities in 0..1, also of unknown entries.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        file_names: Of the n images.
        names: Of the labels, in order.
        thresholds: A number, one per label, or one per entry; a score of at least this is a yes.
        limit: The most entries of each kind.

    Returns:
        A row per entry, by kind (in the order of `KINDS`) and rank: `kind`, `rank` (from 1), `file_name`, `label`,
        `known` (`"yes"`, `"no"`, `"unknown"` or `"uncertain"`), `score`, `threshold`, `margin`, and `row`, the image's
        position. Equal entries are in the order of the images, then of the labels.

    Raises:
        HalflabelError: On shapes, names or thresholds that do not fit one another, on other label values, or on scores
            that are no probabilities.
    """
    values, matrix = check_pair(scores, labels, probabilities=True)
    if not ((values >= 0) & (values <= 1)).all():
        raise HalflabelError("scores must be probabilities in 0..1, also those of unknown entries")
    if (len(file_names), len(names)) != matrix.shape:
        raise HalflabelError(
            f"{len(file_names)} file names and {len(names)} labels do not fit labels of {matrix.shape}"
        )
    given = thresholds if np.ndim(thresholds) == 2 else check_thresholds(thresholds, len(names))
    limits = np.broadcast_to(np.asarray(given, dtype=np.float64), matrix.shape)
    margin = margins(values, limits)
    said_yes, unknown = margin >= 0, matrix < 0
    ranked = {  # by kind: which entries, and by what they are ranked, largest first
        LOOKS_YES: ((matrix == 0) & said_yes, values),
        LOOKS_NO: ((matrix == 1) & ~said_yes, -values),
        SURELY_YES: (unknown & said_yes, margin),
        SURELY_NO: (unknown & ~said_yes, -margin),
        LEAST_SURE: (unknown, -np.abs(margin)),
    }
    tables = []
    for kind, (entries, sureness) in ranked.items():
        rows, columns = np.unravel_index(_largest(np.flatnonzero(entries), sureness.ravel(), limit), matrix.shape)
        tables.append(pd.DataFrame({
            "kind": kind, "rank": np.arange(1, len(rows) + 1), "file_name": [file_names[row] for row in rows],
            "label": [names[column] for column in columns],
            "known": [_ANSWERS.get(int(code), "unknown") for code in matrix[rows, columns]],
            "score": values[rows, columns].astype(np.float64), "threshold": limits[rows, columns],
            "margin": margin[rows, columns], "row": rows,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def margins(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Return how far scores are beyond their thresholds, as a share of the way that there is.

    From -1 (score 0) through 0 (at the threshold) to 1 (score 1): (s - t) / (1 - t) above the threshold t, (s - t) / t
    below. So a label that is a yes from 0.1 and one that is a yes from 0.9 can be compared. A threshold above 1 is
    taken as 1.

    Args:
        scores: Shape (n, num_labels), in 0..1.
        thresholds: At least 0, of a shape that fits.
    """
    values, limits = np.asarray(scores, dtype=np.float64), np.minimum(np.asarray(thresholds, dtype=np.float64), 1.0)
    way = np.where(values >= limits, 1 - limits, limits)
    return np.divide(values - limits, way, out=np.zeros(values.shape), where=way > 0)


def _largest(places: NDArray[np.intp], keys: Floats, limit: int) -> NDArray[np.intp]:
    """Return the places of the largest keys, largest first, equal ones in order."""
    if len(places) > limit:  # sort only what may be among them
        places = places[keys[places] >= np.partition(keys[places], -limit)[-limit]]
    return places[np.argsort(-keys[places], kind="stable")][:limit]


def _about_splits(splits: Sequence[str], out_of_fold: bool) -> str:
    """Name the splits that scores are of ("": none), and say of those that may have been trained on who scored them."""
    counts = Counter(splits)
    parts = [f"{count:,} images of {f'split {split}' if split else 'no split'}" for split, count in counts.items()]
    named = ", ".join(parts) or "no images"
    if not {"train", ""} & counts.keys():
        return named
    which = "Those of train were" if "train" in counts else "They were"
    if out_of_fold:
        return f"{named}. {which} scored by probes on the model's features that had not seen them"
    return f"{named}. {which} scored by the model, which may have learned their mistakes: they cannot be cut into folds"
