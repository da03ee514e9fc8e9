"""A recipe's run with all that is shown of it: the model's card, its pictures, and its page on the Hub."""

import json
import logging
import shutil

from ..data.files import write_whole
from ..training.recipe import Recipe
from ..training.run import METRICS, PLOTS, UNKNOWN_AS_NEGATIVE, Result, Trained, run_recipe
from ..use.evaluation import Measured
from .card_files import save_card_data, write_card
from .figures import check_drawing, save
from .model_card import EXAMPLES
from .plots import draw_examples
from .sharing import hub_name, prepare_repository, push_folder
from .summary_plots import draw_coverage, draw_learning_curve, draw_measured

log = logging.getLogger(__name__)


def train(recipe: Recipe) -> Result:
    """Run a recipe from data to the saved, tested model and its card, and with `push_to_hub` push the finished folder.

    With `compare_unknown_as_negative` it is run a second time, with unknown taken as negative, for its measures alone.

    Raises:
        HalflabelError: On any fault of the recipe, of the data or of the Hub repository, before training starts; and
            if the push fails at the end, when everything is saved.
    """
    arguments = recipe.arguments
    if recipe.decisions.plots:
        check_drawing()
    if not arguments.push_to_hub:
        return _run(recipe)
    repository, private, main = hub_name(arguments), arguments.hub_private_repo, arguments.process_index == 0
    if main:
        prepare_repository(repository, private, arguments.hub_token)
    # The Trainer must not push: most of the folder is written after it has done its part.
    result = _run(recipe.change(push_to_hub=False, hub_token=None))
    if main:
        page = push_folder(result.folder, repository, private, arguments.hub_revision, token=arguments.hub_token)
        log.info("pushed to %s", page)
    return result


def _run(recipe: Recipe) -> Result:
    result = run_recipe(recipe, present)
    if not recipe.decisions.compare_unknown_as_negative or "unknown_as_negative" in result.metrics:
        return result
    log.info("once more, with unknown taken as negative")
    folder = result.folder / UNKNOWN_AS_NEGATIVE
    rival = recipe.change(unknown="negative", pseudo_labels=None, pseudo_args=None, output_dir=str(folder))
    metrics = {**result.metrics, "unknown_as_negative": run_recipe(rival).metrics}
    if recipe.arguments.process_index == 0:
        write_whole(result.folder / METRICS, json.dumps(metrics, indent=1) + "\n")
        shutil.rmtree(folder)
        write_card(result.folder)
    return Result(metrics, result.folder)


def present(trained: Trained) -> None:
    """Write the card of a model, and the pictures that the card shows, into the run's folder."""
    recipe, data = trained.recipe, trained.data
    folder, plots = recipe.folder, recipe.decisions.plots
    save_card_data(folder, recipe.name, recipe.data.data, data.counts, data.names)
    if plots and trained.test_logits is not None and trained.test_labels is not None:
        rule = trained.model.config.decision_rule
        measured = Measured(trained.metrics, trained.test_logits, trained.test_labels, rule)
        draw_measured(folder / PLOTS, measured, trained.log_history, data.counts)
    elif plots:  # without a test split only how the run learned, and from what
        save(draw_learning_curve(trained.log_history), folder / PLOTS / "learning_curve.png")
        save(draw_coverage(data.counts, data.names, "training"), folder / PLOTS / "coverage.png")
    draw_examples(data.images.of_split("train"), trained.model, trained.processor, folder / EXAMPLES)
    write_card(folder)  # it shows the pictures that are there
