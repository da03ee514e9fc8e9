"""Recipes compared under kinds of missing labels: every one trained and measured, on test and on held-out images."""

import gc
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..data.hiding import hide_labels
from ..data.images import AnnotatedImages
from ..data.splitting import assign_splits
from ..metrics.ranking import average_precision
from ..metrics.report import json_ready
from ..model.errors import HalflabelError
from ..model.labels import count_labels, evaluation_labels
from ..training.preparation import TrainingData, make_datasets
from ..training.trainer import build_model, choose_trained
from .compare_choice import judge
from .compare_runs import cut_folds, held_out_logits, train_and_score
from .compare_settings import Entrant, Setting

log = logging.getLogger(__name__)

FOLDS = 4
"""In how many parts the training images are cut; each recipe is trained once without each of them."""


@dataclass(frozen=True)
class Run:
    """What one recipe reached under one draw of missing labels; undefined is None.

    Attributes:
        setting: Its name.
        seed: Of hiding, folds and training.
        recipe: As it was given.
        known_per_label: How many known training entries a label has, on average.
        test_ap: Average precision of each label on the test split; None where nothing was hidden: test is not touched.
        held_out_ap: On the known training entries, each scored by a model trained without its image.
        judged: What `compare_choice.judge` says of the same scores.
        resampled: The same for resamples of the images, which are the same for all recipes.
    """

    setting: str
    seed: int
    recipe: str
    known_per_label: float
    test_ap: list[float | None] | None
    held_out_ap: list[float | None]
    judged: float | None
    resampled: list[float | None]


class RunLog:
    """Finished runs, a line each in a file, so that a comparison that was stopped goes on where it was."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read what is there.

        Args:
            path: The file; it need not exist.
            about: What the runs depend on.

        Raises:
            HalflabelError: If the file holds runs of something else.
        """
        self.path = path
        self.runs: dict[tuple[str, int, str], Run] = {}
        head = json.dumps({"of": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()})
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []  # the last may be cut off
        if lines and lines[0] != head:
            raise HalflabelError(
                f"{path} holds runs on other data or of other recipes: give another --output, or remove it"
            )
        for line in lines[1:]:
            self._keep(Run(**json.loads(line)))
        path.write_text("".join(f"{line}\n" for line in lines or [head]), encoding="utf-8")

    def _keep(self, run: Run) -> None:
        self.runs[run.setting, run.seed, run.recipe] = run

    def add(self, run: Run) -> None:
        """Keep a finished run."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")
        self._keep(run)


def describe_comparison(
    entrants: Sequence[Entrant], settings: Sequence[Setting], images: AnnotatedImages
) -> dict[str, Any]:
    """Return all that a run depends on beside its setting's name and its seed, for `RunLog`."""
    changing = {"output_dir", "data", "feature_cache"}  # where things lie
    return {
        "recipes": {
            one.name: {key: str(value) for key, value in one.recipe.plain().items() if key not in changing}
            for one in entrants
        },
        "teams": [str(one.hiding["groups"]) for one in settings if one.hiding and "groups" in one.hiding],
        "labels": list(images.label_space.names),
        "images": [str(name) for name in images.column("file_name")],
        "splits": [str(split) for split in images.column("split")],
        "codes": hashlib.sha256(np.ascontiguousarray(images.labels).tobytes()).hexdigest(),
        "folds": FOLDS,
    }


def split_images(images: AnnotatedImages, settings: Sequence[Setting], test_share: float) -> AnnotatedImages:
    """Return the images as `train` and `test`; validation images train, since nothing is chosen on them here.

    Args:
        images: With or without given splits.
        settings: Where they hide labels, a test split is needed, and cut if none is given.
        test_share: How much of the images is cut then.

    Raises:
        HalflabelError: If what is to be measured cannot be.
    """
    hidden = any(one.hiding for one in settings)
    images = assign_splits(images, 0, test_share if hidden else 0, seed=0)
    splits = np.where(images.column("split") == "test", "test", "train").astype(object)
    images = images.with_column("split", splits)
    counts = {split: count_labels(images.of_split(split).labels) for split in ("train", "test")}
    if not counts["train"].positive.any():
        raise HalflabelError("no known yes among the training images: there is nothing to learn and nothing to compare")
    if hidden and not ((counts["test"].positive > 0) & (counts["test"].negative > 0)).any():
        raise HalflabelError("no label has both a known yes and a known no in the test split: nothing can be measured")
    if not hidden and (images.of_split("train").labels >= 0).all():
        log.info("every entry is known: there is none to learn from beyond them; the recipes are cross-validated")
    return images


def run_all(
    entrants: Sequence[Entrant], settings: Sequence[Setting], images: AnnotatedImages, seeds: int, runs: RunLog
) -> list[Run]:
    """Train every recipe in every setting, as often as there are seeds, and once more without each fold.

    Args:
        entrants: See `parse_entrants`.
        settings: See `make_settings`.
        images: See `split_images`.
        seeds: How many; they are 0, 1, 2 ...
        runs: Those in it are not made again; new ones are added.

    Returns:
        All runs, in the order of settings, seeds and recipes.
    """
    cells = list(product(settings, range(seeds)))
    keys = [(setting.name, seed, one.name) for setting, seed in cells for one in entrants]
    missing = [key for key in keys if key not in runs.runs]
    if missing:
        each = FOLDS + any(one.hiding for one in settings)
        log.info(
            "%d recipes, %d settings, %d seeds: %d runs, %d of them done; up to %d trainings each",
            len(entrants), len(settings), seeds, len(keys), len(keys) - len(missing), each,
        )  # fmt: skip
        _extract(entrants, images)
    with tqdm(total=len(missing), unit="run", disable=not missing) as bar, _many_trainings():
        for setting, seed in cells:
            todo = [one for one in entrants if (setting.name, seed, one.name) in missing]
            for run in _run_cell(todo, setting, seed, images) if todo else ():
                runs.add(run)
                bar.set_postfix_str(f"{setting.name}, seed {seed}, {run.recipe[:40]}")
                bar.update()
    return [runs.runs[key] for key in keys]


@contextmanager
def _many_trainings() -> Iterator[None]:
    """Let the package tell nothing of single trainings, and look for garbage only among what they make.

    The Trainer collects garbage at the start; among all that is imported that takes longer than training a small head.
    """
    logger = logging.getLogger("halflabel")
    level = logger.level
    logger.setLevel(logging.ERROR)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        logger.setLevel(level)


def _extract(entrants: Sequence[Entrant], images: AnnotatedImages) -> None:
    """Send every picture through the backbone, with a progress bar, so that the runs find the features."""
    data = TrainingData(images, count_labels(images.of_split("train").labels))
    for one in entrants:
        recipe = one.recipe.change(disable_tqdm=False)
        model, processor = build_model(recipe, data)
        choose_trained(model, recipe.training)
        make_datasets(recipe, model, processor, data)


def _run_cell(entrants: Sequence[Entrant], setting: Setting, seed: int, images: AnnotatedImages) -> Iterable[Run]:
    """Make the runs of one setting and seed."""
    inside = images.column("split") == "train"
    labels = images.labels.copy()
    if setting.hiding is not None:
        labels[inside] = hide_labels(labels[inside], **setting.hiding, seed=seed)
    images = images.with_labels(labels)
    train = images.select(np.flatnonzero(inside))
    known = evaluation_labels(train.labels)
    fold_of = cut_folds(train, FOLDS, seed)
    for one in entrants:
        test_ap = None
        if setting.hiding is not None:
            logits = train_and_score(one.recipe, images, seed)
            test_ap = _plain(average_precision(logits, evaluation_labels(labels[~inside])))
        held_out = held_out_logits(one.recipe, train, fold_of, seed)
        judged, resampled = judge(held_out, train.labels)
        yield Run(
            setting.name, seed, one.name, float((known >= 0).sum() / known.shape[1]), test_ap,
            _plain(average_precision(held_out, known)), json_ready(judged), _plain(resampled),
        )  # fmt: skip


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [json_ready(value) for value in values.tolist()]
