"""A model at hand, trained by a recipe or loaded, with all that it is good for and all that is shown of it."""

import functools
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data import process_state, write_whole
from ..model.errors import HalflabelError
from ..model.heads import Head
from ..model.losses import Loss
from ..training.recipe import Recipe, parse_recipe
from ..training.run import METRICS, PLOTS, UNKNOWN_AS_NEGATIVE, Trained, run_recipe
from ..use.evaluate import Measured, evaluate
from ..use.evaluate import calibrate as fit_rule
from ..use.explain import explain
from ..use.inference import Name, SavedModel, open_model
from ..use.predict import predict
from ..use.review import review
from .card import EXAMPLES, card, is_rendered, save_card_data
from .image_plots import draw_examples
from .plots import check_drawing, draw_measured, draw_training
from .push import prepare_repository, push

log = logging.getLogger(__name__)


@functools.wraps(fit_rule)
def calibrate(model: Name | SavedModel, data: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Do what `use.evaluate.calibrate` does, and render the card again, unless somebody wrote or changed it."""
    folder = model.name if isinstance(model, SavedModel) else model
    rendered = is_rendered(folder)
    report = fit_rule(model, data, **options)
    if rendered and process_state().is_main_process:
        card(folder)
    return report


class Loaded(SavedModel):
    """A model with its image processor, and what it is good for; a method is the function of its name."""

    predict = predict
    evaluate = evaluate
    calibrate = calibrate
    review = review
    explain = explain
    push = push


def load(
    model: Name | SavedModel,
    *,
    revision: str | None = None,
    backbone: nn.Module | None = None,
    head: type[Head] | None = None,
    loss: Callable[..., Tensor] | Loss | None = None,
) -> Loaded:
    """Load a model from a folder or from the Hub, from safetensors only; no code that lies beside them is run.

    Args:
        model: A folder, a Hub name, or what is open already.
        revision: A branch, a tag or a commit of the Hub's repository.
        backbone: With head and loss: parts of a program's own that the model was trained with.
        head: A class.
        loss: A function or a record.

    Raises:
        HalflabelError: As `inference.open_model`.

    Example:
        ```python
        model = halflabel.load("me/signs")
        table = model.predict("photos/")
        ```
    """
    if isinstance(model, Loaded):
        return model
    saved = open_model(model, revision, backbone, head, loss)
    return Loaded(saved.model, saved.processor, saved.name)


@dataclass(frozen=True)
class Run(Loaded):
    """A finished run: the trained model, and what was measured.

    Attributes:
        metrics: The content of `metrics.json`; `metrics["mAP"]` is that of the test split.
        kept: The epoch whose weights were kept, and how many there were; None without validation.
        trained: What `plot` draws from; None for a run that was finished before.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    kept: tuple[float, float] | None = None
    trained: Trained | None = None

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return Path(self.name)

    def plot(self, folder: str | Path | None = None) -> list[Path]:
        """Draw what was measured and how the run learned, and return the PNG files.

        Args:
            folder: Where to; None: `plots` in the run's folder, and its card then shows them.

        Raises:
            HalflabelError: If matplotlib is not installed, or the run was finished before.
        """
        if self.trained is None:
            raise HalflabelError(f"{self.folder} was trained before: draw it with halflabel evaluate --plots")
        files = _draw(self.trained, self.folder / PLOTS if folder is None else Path(folder))
        if folder is None:
            card(self.folder)
        return files


def train(
    recipe: str | os.PathLike[str] | Recipe,
    data: Any = None,  # noqa: ANN401 - whatever `load_images` takes
    *,
    image_folder: str | None = None,
    **keys: Any,  # noqa: ANN401 - of a recipe
) -> Run:
    """Run a recipe from data to the saved, tested model and its card, and with `push_to_hub` push the finished folder.

    With `compare_unknown_as_negative` it is run a second time, with unknown taken as negative, for its measures alone.

    Args:
        recipe: A shipped name, a file, or what `parse_recipe` returned.
        data: Annotated pictures: a path, several, a mapping with a path, a pandas frame or `AnnotatedImages`; None: the
            recipe's own.
        image_folder: What file names are relative to.
        keys: Keys of a recipe and of `transformers.TrainingArguments`, stronger than the recipe's.

    Raises:
        HalflabelError: On any fault of the recipe, of the data or of the Hub repository, before training starts; and
            if the push fails at the end, when everything is saved.

    Example:
        ```python
        run = halflabel.train("linear_probe", data=frame, image_folder="photos", learning_rate=1e-2)
        run.metrics["mAP"], run.predict("new/")
        ```
    """
    if data is not None:
        listed = data if isinstance(data, list | tuple) else [data]
        keys["data"] = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in listed]
    if image_folder is not None:
        keys["image_folder"] = image_folder
    if not isinstance(recipe, Recipe):
        recipe = parse_recipe(str(recipe), keys)
    elif keys:
        recipe = recipe.change(**keys)
    arguments = recipe.arguments
    if recipe.decisions.plots:
        check_drawing()
    if not arguments.push_to_hub:
        return _run(recipe)
    repository = arguments.hub_model_id or recipe.folder.absolute().name  # as the Trainer does
    private, main = arguments.hub_private_repo, arguments.process_index == 0
    if main:
        prepare_repository(repository, private, arguments.hub_token)
    # The Trainer must not push: most of the folder is written after it has done its part.
    run = _run(recipe.change(push_to_hub=False, hub_token=None))
    if main:
        page = run.push(repository, private=private, revision=arguments.hub_revision, token=arguments.hub_token)
        log.info("pushed to %s", page)
    return run


def _run(recipe: Recipe) -> Run:
    done: list[Trained] = []
    metrics = run_recipe(recipe, lambda trained: done.append(_present(trained)))
    at = recipe.folder
    if recipe.decisions.compare_unknown_as_negative and "unknown_as_negative" not in metrics:
        log.info("once more, with unknown taken as negative")
        folder = at / UNKNOWN_AS_NEGATIVE
        rival = recipe.change(unknown="negative", pseudo_labels=None, pseudo_args=None, output_dir=str(folder))
        metrics = {**metrics, "unknown_as_negative": run_recipe(rival)}
        if recipe.arguments.process_index == 0:
            write_whole(at / METRICS, json.dumps(metrics, indent=1) + "\n")
            shutil.rmtree(folder)
            card(at)
    if done:  # in the main process of a run that was not finished before
        model, processor = done[0].model.train(False), done[0].processor
        return Run(model, processor, str(at), metrics, done[0].kept, done[0])
    own = {key: part for key in ("backbone", "head", "loss")
           if not isinstance(part := getattr(recipe.model, key), str)}  # fmt: skip
    saved = load(at, **own)
    return Run(saved.model, saved.processor, str(at), metrics)


def _present(trained: Trained) -> Trained:
    """Write the card of a model, and the pictures that the card shows, into the run's folder; return what was given."""
    recipe, data, folder = trained.recipe, trained.data, trained.recipe.folder
    save_card_data(folder, recipe.name, recipe.data.data, data.counts, data.names)
    if recipe.decisions.plots:
        _draw(trained, folder / PLOTS)
    draw_examples(data.images.of_split("train"), trained.model, trained.processor, folder / EXAMPLES)
    card(folder)  # it shows the pictures that are there
    return trained


def _draw(trained: Trained, folder: Path) -> list[Path]:
    """Draw how a run learned and from what, and where there was a test split what was measured."""
    files = draw_training(folder, trained.log_history, trained.data.counts, trained.data.names)
    if trained.test_logits is None or trained.test_labels is None:
        return files
    rule = trained.model.config.decision_rule
    return files + draw_measured(folder, Measured(trained.metrics, trained.test_logits, trained.test_labels, rule))
