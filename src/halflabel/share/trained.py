"""A recipe's run with all that is shown of it: the model's card, its pictures, and its page on the Hub."""

import copy
import logging
from dataclasses import replace

from ..training.arguments import Recipe
from ..training.run import PLOTS, Result, Trained, run_recipe
from ..use.evaluation import Measured
from .card_files import save_card_data, write_card
from .figures import check_drawing, save
from .model_card import EXAMPLES
from .plots import draw_examples
from .sharing import hub_name, prepare_repository, push_folder
from .summary_plots import draw_coverage, draw_learning_curve, draw_measured

log = logging.getLogger(__name__)


def train(recipe: Recipe) -> Result:
    """Run a recipe from data to the saved, tested model, and with `push_to_hub` push the finished folder.

    Raises:
        HalflabelError: On any fault of the recipe, of the data or of the Hub repository, before training starts; and
            if the push fails at the end, when everything is saved.
    """
    training = recipe.training
    if recipe.settings.plots:
        check_drawing()
    if not training.push_to_hub:
        return run_recipe(recipe, present)
    repository, private = hub_name(training), training.hub_private_repo
    if training.process_index == 0:
        prepare_repository(repository, private, training.hub_token)
    alone = copy.copy(training)  # the Trainer must not push: most of the folder is written after it has done its part
    alone.push_to_hub, alone.hub_token = False, None
    result = run_recipe(replace(recipe, training=alone), present)
    if training.process_index == 0:
        page = push_folder(result.folder, repository, private, training.hub_revision, token=training.hub_token)
        log.info("pushed to %s", page)
    return result


def present(trained: Trained) -> None:
    """Write the card of a model, and the pictures that the card shows, into the run's folder."""
    folder, settings, data = trained.recipe.folder, trained.recipe.settings, trained.data
    save_card_data(folder, trained.recipe.name, settings, data.counts, data.names)
    if settings.plots and trained.test_logits is not None and trained.test_labels is not None:
        rule = trained.model.config.decision_rule
        measured = Measured(trained.metrics, trained.test_logits, trained.test_labels, rule)
        draw_measured(folder / PLOTS, measured, trained.log_history, data.counts)
    elif settings.plots:  # without a test split only how the run learned, and from what
        save(draw_learning_curve(trained.log_history), folder / PLOTS / "learning_curve.png")
        save(draw_coverage(data.counts, data.names, "training"), folder / PLOTS / "coverage.png")
    draw_examples(data.images.of_split("train"), trained.model, trained.processor, folder / EXAMPLES)
    write_card(folder)  # it shows the pictures that are there
