"""Recipes trained and measured on held-out entries, again and again: what `compare` is made of."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm
from transformers import set_seed

from ..data.files import write_whole
from ..data.images import AnnotatedImages, picture_identities
from ..data.splitting import assign_splits
from ..metrics.entries import Floats, mean_defined
from ..metrics.intervals import mean_over_labels, resample_ranking
from ..metrics.ranking import average_precision, roc_auc
from ..metrics.report import json_ready
from ..model.errors import HalflabelError, shortlist
from ..model.labels import IGNORE_INDEX, UNCERTAIN, IntMatrix, count_labels, evaluation_labels
from ..training.folds import FOLDS, cut_folds, fit_head, logits_of, only_errors, out_of_fold_logits
from ..training.keys import split_entrant
from ..training.preparation import TrainingData, hide_known, hides_labels, make_datasets
from ..training.recipe import Recipe, parse_recipe
from ..training.run import prepare_training
from ..training.transfer import build_model, choose_trained

log = logging.getLogger(__name__)

SAMPLES = 200
"""How many resamples of the images an interval rests on."""

_EVERY_RUN = (
    "--validation_share=0", "--eval_strategy=no", "--save_strategy=no", "--logging_strategy=no", "--report_to=none",
    "--disable_tqdm=true", "--layer_decay=1", "--decide=none", "--plots=false",
    "--compare_unknown_as_negative=false",
)  # fmt: skip
_SAME_MODEL = ("backbone", "weights", "backbone_args")
_SAME_HIDING = ("hide_protocol", "keep_labels", "hide_per_label", "hide_groups", "hide_seed")
_PLACES = ("data", "image_folder", "output_dir", "logging_dir", "feature_cache", "run_name")


@dataclass(frozen=True)
class Entrant:
    """A recipe as it was given, with its overrides, and what it says."""

    name: str
    recipe: Recipe


def parse_entrants(
    given: Sequence[str], folder: Path, backbone: str | None = None, weights: str | None = None
) -> list[Entrant]:
    """Read recipes, each a name or a path, with overrides behind it as on the command line.

    What they say of data, splits, validation and decisions is not used.

    Args:
        given: Like `linear_probe`, `my.yaml` or `linear_probe --loss em`.
        folder: Where runs may write.
        backbone: In the place of the recipes' own.
        weights: Likewise.

    Raises:
        HalflabelError: On a recipe that is not there, is given twice, or cannot be compared with the others.
    """
    names = [" ".join(text.split()) for text in given]
    if not names:
        raise HalflabelError("no recipe is given: name at least one, like linear_probe")
    for name in names:
        if names.count(name) > 1:
            raise HalflabelError(f"recipe {name!r} is given twice")
    model = [f"--{key}={value}" for key, value in (("backbone", backbone), ("weights", weights)) if value is not None]
    # A recipe needs some data; those that are compared on are given beside it.
    ours = ["--data=given", f"--output_dir={folder}", *_EVERY_RUN, *model]
    entrants = [Entrant(name, _parse(name, ours, folder)) for name in names]
    pixels = [one.name for one in entrants if not one.recipe.training.cache_features]
    if pixels:
        raise HalflabelError(f"only recipes with cache_features: true are compared; without it: {shortlist(pixels)}")
    waiting = [one.name for one in entrants if one.recipe.training.early_stopping_patience is not None]
    if waiting:
        raise HalflabelError(
            f"all are trained to the last epoch: remove early_stopping_patience from {shortlist(waiting)}"
        )
    for key in (*_SAME_MODEL, *_SAME_HIDING):
        group = "model" if key in _SAME_MODEL else "data"
        values = {one.name: getattr(getattr(one.recipe, group), key) for one in entrants}
        if any(value != values[names[0]] for value in values.values()):
            told = "; ".join(f"{name}: {value}" for name, value in values.items())
            mend = "give --backbone and --weights" if group == "model" else "give all of them the same"
            raise HalflabelError(f"the recipes have different {key}: {told}; {mend}")
    return entrants


def _parse(text: str, ours: Sequence[str], folder: Path) -> Recipe:
    name, *overrides = split_entrant(text)
    recipe = parse_recipe(name, [*overrides, *ours])
    if recipe.training.feature_cache == "none":  # in memory they would be made anew for each run
        recipe = recipe.change(feature_cache=str(folder / "features"))
    return recipe


@dataclass(frozen=True)
class Run:
    """What one recipe reached with one seed; undefined is None.

    Attributes:
        seed: Of hiding, folds and training.
        recipe: As it was given.
        known_per_label: How many known training entries a label has, on average.
        test_ap: Average precision of each label on the test split; None where nothing was hidden: test is not touched.
        held_out_ap: On the known training entries, each scored by a model trained without its image.
        judged: What `judge` says of the same scores.
        resampled: The same for resamples of the images, which are the same for all recipes.
    """

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
        self.runs: dict[tuple[int, str], Run] = {}
        head = json.dumps({"of": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()})
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else [head]
        if lines[:1] != [head]:
            raise HalflabelError(
                f"{path} holds runs on other data or of other recipes: give another --output, or remove it"
            )
        for number, line in enumerate(lines[1:], 2):
            try:
                self._keep(Run(**json.loads(line)))
            except (ValueError, TypeError):  # cut off where it was stopped, or damaged since
                log.warning("%s, line %d is no whole run: it is made again", path, number)
        whole = [json.dumps(asdict(run)) for run in self.runs.values()]
        write_whole(path, "".join(f"{line}\n" for line in (head, *whole)))

    def _keep(self, run: Run) -> None:
        self.runs[run.seed, run.recipe] = run

    def add(self, run: Run) -> None:
        """Keep a finished run."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")
        self._keep(run)


def describe_comparison(entrants: Sequence[Entrant], images: AnnotatedImages) -> dict[str, Any]:
    """Return all that a run depends on beside its seed, for `RunLog`."""
    return {
        "recipes": {
            one.name: {key: str(value) for key, value in one.recipe.plain().items() if key not in _PLACES}
            for one in entrants
        },
        "labels": list(images.label_space.names),
        "images": [(name, identity) for name, _, identity in picture_identities(images.dataset)],
        "splits": [str(split) for split in images.column("split")],
        "codes": hashlib.sha256(np.ascontiguousarray(images.labels).tobytes()).hexdigest(),
        "folds": FOLDS,
    }


def split_images(images: AnnotatedImages, recipe: Recipe) -> AnnotatedImages:
    """Return the images as `train` and `test`; validation images train, since nothing is chosen on them here.

    Args:
        images: With or without given splits.
        recipe: Where it hides labels, a test split is needed, and cut by its `test_share` if none is given.

    Raises:
        HalflabelError: If what is to be measured cannot be.
    """
    hidden = hides_labels(recipe.data)
    images = assign_splits(images, 0, recipe.data.test_share if hidden else 0, seed=0)
    splits = np.where(images.column("split") == "test", "test", "train").astype(object)
    images = images.with_column("split", splits)
    counts = {split: count_labels(images.of_split(split).labels) for split in ("train", "test")}
    if not counts["train"].positive.any():
        raise HalflabelError("no known yes among the training images: there is nothing to learn and nothing to compare")
    if hidden and not ((counts["test"].positive > 0) & (counts["test"].negative > 0)).any():
        raise HalflabelError("no label has both a known yes and a known no in the test split: nothing can be measured")
    if not hidden and (images.of_split("train").labels >= 0).all():
        log.info("every entry is known: there is none to learn from beyond them; the recipes are cross-validated")
    hide_known(images, recipe.data, 0)  # what cannot be hidden is told before anything is computed
    return images


def run_all(entrants: Sequence[Entrant], images: AnnotatedImages, seeds: int, runs: RunLog) -> list[Run]:
    """Train every recipe as often as there are seeds, each time once more without each fold.

    Args:
        entrants: See `parse_entrants`.
        images: See `split_images`.
        seeds: How many; they are 0, 1, 2 ...
        runs: Those in it are not made again; new ones are added.

    Returns:
        All runs, in the order of seeds and recipes.
    """
    keys = [(seed, one.name) for seed, one in product(range(seeds), entrants)]
    missing = [key for key in keys if key not in runs.runs]
    if missing:
        each = FOLDS + hides_labels(entrants[0].recipe.data)
        log.info(
            "%d recipes, %d seeds: %d runs, %d of them done; up to %d trainings each",
            len(entrants), seeds, len(keys), len(keys) - len(missing), each,
        )  # fmt: skip
        _extract(entrants, images)
    with tqdm(total=len(missing), unit="run", disable=not missing) as bar, only_errors():
        for seed in range(seeds):
            for run in _run_seed([one for one in entrants if (seed, one.name) in missing], seed, images):
                runs.add(run)
                bar.set_postfix_str(f"seed {seed}, {run.recipe[:40]}")
                bar.update()
    return [runs.runs[key] for key in keys]


def _extract(entrants: Sequence[Entrant], images: AnnotatedImages) -> None:
    """Send every picture through the backbone, with a progress bar, so that the runs find the features."""
    data = TrainingData(images, count_labels(images.of_split("train").labels))
    for one in entrants:
        recipe = one.recipe.change(disable_tqdm=False)
        model, processor = build_model(recipe, data)
        choose_trained(model, recipe.training)
        make_datasets(recipe, model, processor, data)


def _run_seed(entrants: Sequence[Entrant], seed: int, images: AnnotatedImages) -> Iterator[Run]:
    """Make the runs of one seed."""
    if not entrants:
        return
    keys = entrants[0].recipe.data
    images = hide_known(images, keys, seed)
    train, test = images.of_split("train"), images.of_split("test")
    known, groups = evaluation_labels(train.labels), train.groups
    fold_of = cut_folds(train, FOLDS, seed)
    for one in entrants:
        held_out, logits = train_and_score(one.recipe, images, fold_of, seed)
        test_ap = None if logits is None else json_ready(average_precision(logits, evaluation_labels(test.labels)))
        judged, resampled = judge(held_out, train.labels, groups)
        yield Run(
            seed, one.name, float((known >= 0).sum() / known.shape[1]), test_ap,
            json_ready(average_precision(held_out, known)), json_ready(judged), json_ready(resampled),
        )  # fmt: skip


def train_and_score(
    recipe: Recipe, images: AnnotatedImages, fold_of: NDArray[np.intp], seed: int
) -> tuple[Floats, Floats | None]:
    """Return logits of the training images, each by a head that was trained without its fold, and of the test images.

    Args:
        recipe: One on cached features. Its own seed decides its augmented views, so that these are made once.
        images: Of the splits `train` and `test`.
        fold_of: The folds of the training images, see `cut_folds`.
        seed: Of the head's start and of the order of the images.

    Returns:
        Shapes (training images, num_labels) and (test images, num_labels); None where the recipe hides no labels, for
        then nothing is measured on test.
    """
    hidden = hides_labels(recipe.data)
    images = images if hidden else images.of_split("train")
    data = TrainingData(images, count_labels(images.of_split("train").labels))
    set_seed(seed)
    model, _, datasets = prepare_training(
        recipe if hidden else recipe.change(pseudo_labels=None, pseudo_args=None), data
    )
    model.backbone = nn.Identity()  # features are cached: half of the time of a step went on walking through its layers
    recipe, train = recipe.change(seed=seed), datasets["train"]
    found = out_of_fold_logits(recipe, model, data, train, fold_of)
    assert found is not None
    if not hidden:
        return found.double().numpy(), None
    fit_head(recipe, model, train, data.target_counts(recipe))
    return found.double().numpy(), logits_of(model, datasets["test"]).double().numpy()


def judge(logits: Floats, labels: IntMatrix, groups: NDArray[np.intp] | None = None) -> tuple[float, Floats]:
    """Measure held-out logits by what few known entries tell most reliably of a ranking.

    Average precision of few known entries is mostly chance; the area under the ROC curve is less so, and does not
    depend on how often the annotated images show a label. It is the mean of two. One is of known yes against known no.
    The other is of known yes against all other images: where it is chance which yes are known, it grows linearly with
    the true area (Menon et al. 2015, "Learning from Corrupted Binary Labels via Class-Probability Estimation"), and
    it is there without a known no, and rests on all images. Where one is undefined, the other counts alone.

    Args:
        logits: Shape (n, num_labels), each by a model that has not seen the image.
        labels: Same shape: 1, 0, or below 0 for unknown entries.
        groups: The number of each image's group, see `AnnotatedImages.groups`; None: every image stands alone.

    Returns:
        The mean over labels, NaN if undefined for all; and that of `SAMPLES` resamples of the groups, which are the
        same for all logits of the same images.
    """
    against_all = np.where(labels == UNCERTAIN, IGNORE_INDEX, labels == 1).astype(np.int8)
    kinds = (labels, against_all)
    value = mean_defined(np.array([mean_defined(roc_auc(logits, kind)) for kind in kinds]))
    resampled = [mean_over_labels(resample_ranking(logits, kind, SAMPLES, groups=groups).roc_auc) for kind in kinds]
    return value, mean_over_labels(np.stack(resampled, axis=1))
