"""What the benchmarks that train recipes share: the options, quiet, and one run."""

import argparse
import json
import logging
import shlex
import tempfile
import time

from transformers.utils import logging as transformers_logging

from halflabel.share.trained import train
from halflabel.training.features import keep_freed_memory
from halflabel.training.recipe import parse_recipe


def recipe_parser(about):
    """Return a parser of a table, recipes with their overrides, and where the result goes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("runs", nargs="+", metavar="RECIPE [--KEY VALUE ...]")
    parser.add_argument("--output", help="also write the table as JSON")
    return parser


def start_quietly():
    """Keep freed memory, as the command line does, and show warnings of errors alone."""
    keep_freed_memory()
    logging.getLogger("halflabel").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def run_recipe(command, data, **flags):
    """Train a recipe with its overrides; return its metrics, its log and seconds."""
    name, *overrides = shlex.split(command)
    quiet = {"report_to": "none", "disable_tqdm": "true", "logging_strategy": "no"}
    given = [text for key, value in (quiet | flags).items() for text in (f"--{key}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        recipe = parse_recipe(name, ["--data", str(data), "--output_dir", folder, *given, *overrides])
        start = time.perf_counter()
        result = train(recipe)
        seconds = time.perf_counter() - start
        return result.metrics, json.loads((result.folder / "training_log.json").read_text()), seconds


def write_table(table, output):
    if output:
        with open(output, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=1)
