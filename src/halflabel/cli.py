"""What each command does; `python -m halflabel.cli` and `accelerate launch -m halflabel.cli` start here too."""

import argparse
import json
import logging
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halflabel_cli import SKIPPED_FILES, USER_ERROR, main

from .errors import HalflabelError

TABLE_LIMIT = 40  # label rows printed; metrics.json has all of them


def run_command(options: argparse.Namespace) -> int:
    """Run a parsed command and return its exit code: 0, 2 for a user's mistake, 3 where files were skipped."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("halflabel").setLevel(logging.INFO)
    try:
        return COMMANDS[options.command](options)
    except HalflabelError as error:
        # An error that crossed from a decoding process carries that process's traceback; its last line is ours.
        print(f"halflabel: error: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return USER_ERROR


def run_train(options: argparse.Namespace) -> int:
    """Run a recipe and print its table."""
    import datasets
    from transformers.utils import logging as transformers_logging

    from .allocator import keep_freed_memory
    from .arguments import parse_recipe
    from .training import train

    keep_freed_memory()
    transformers_logging.disable_progress_bar()  # the bars of loading and saving; the Trainer's own stays
    datasets.disable_progress_bars()
    recipe = parse_recipe(options.recipe, options.overrides)
    result = train(recipe)
    if recipe.training.process_index == 0:
        print_metrics(result.metrics)
        print(f"\nsaved to {result.folder}")
    return 0


def run_data(options: argparse.Namespace) -> int:
    """Report on sources, and draw or write what they hold."""
    import datasets

    from .data_plots import draw_coverage
    from .data_report import describe, render
    from .data_writing import write_shards, write_table
    from .sources.loading import load_sources, parse_sources

    datasets.disable_progress_bars()
    output = options.output
    if output and not output.endswith(("/", ".parquet")):
        raise HalflabelError(f"--output {output!r}: end it in .parquet for a table, or in / for a folder of shards")
    given = [_source(one) for one in options.sources]
    sources = parse_sources(given, options.image_folder, options.uncertain_values)
    # What is only looked at is told whole; what is written must not hold a contradiction that nobody decided.
    policy = options.contradictions or ("error" if output else "unknown")
    images, merged = load_sources(sources, contradictions=policy)
    report = describe(images, merged, pictures=not options.labels_only)
    print(render(report))
    if options.report:
        Path(options.report).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        draw_coverage(images, Path(options.plot))
        print(f"drawn: {options.plot}")
    if output and output.endswith(".parquet"):
        root = write_table(images, Path(output))
        print(f"written: {output}; its file names are relative to image_folder {root}")
    elif output:
        print(f"written: {write_shards(images, Path(output))} files in {output}")
    return SKIPPED_FILES if report.get("unreadable") else 0


def _source(given: str) -> Any:  # noqa: ANN401 - a path or a mapping
    if not given.lstrip().startswith("{"):
        return given
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise HalflabelError(f"source {given!r} is not JSON: {error}") from error


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure a model on a split."""
    from .allocator import keep_freed_memory
    from .inference import evaluate_model
    from .preparation import leave_out_unreadable
    from .sources import load_source
    from .sources.annotated_images import check_split

    keep_freed_memory()
    images = load_source(
        [_source(one) for one in options.data],
        options.image_folder,
        uncertain_values=options.uncertain_values,
        contradictions=options.contradictions or "error",
    )
    skipped: tuple[str, ...] = ()
    if options.bad_images == "skip":
        images, skipped = leave_out_unreadable(images)
    split = check_split(options.split)
    metrics = evaluate_model(options.model, images, split, options.batch_size, options.fast_decode)
    if options.output:
        Path(options.output).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print_metrics(metrics)
    return SKIPPED_FILES if skipped else 0


def run_predict(options: argparse.Namespace) -> int:
    """Score pictures and write them to a file."""
    from .allocator import keep_freed_memory
    from .inference import check_output, find_images, predict_files, write_scores

    keep_freed_memory()
    output = Path(options.output)
    check_output(output)
    files = find_images(options.paths)
    frame, skipped = predict_files(options.model, files, options.labels, options.batch_size, options.fast_decode)
    write_scores(frame, output)
    print(f"scored {len(frame)} of {len(files)} pictures into {output}")
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    return SKIPPED_FILES if skipped else 0


def run_recipes(options: argparse.Namespace) -> int:
    """List the shipped recipes, each with the first line of its header."""
    from .arguments import shipped_recipes

    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:24} {first.lstrip('# ')}")
    return 0


def run_env(options: argparse.Namespace) -> int:
    """Print the versions that a bug report needs."""
    import torch

    from .training import library_versions

    rows = {**library_versions(), "python": platform.python_version(), "platform": platform.platform()}
    rows["device"] = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    )
    for name, value in rows.items():
        print(f"{name}: {value}")
    return 0


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Print a table: per label known entries, positives, AP; then the means, and what is undefined."""
    from .model_card import number

    if not metrics.get("split"):
        print("no test split: nothing was measured")
        return
    rival = metrics.get("unknown_as_negative")
    rows = list(metrics["labels"].items())
    width = max(len(name) for name in (*metrics["labels"], "mAP, unknown entries masked"))
    print(f"\n{metrics['split'] + ' split':{width}} {'known':>7} {'yes':>7} {'AP':>10}")
    for name, row in rows[:TABLE_LIMIT]:
        print(f"{name:{width}} {row['known']:7} {row['positives']:7} {number(row['AP']):>10}")
    if len(rows) > TABLE_LIMIT:
        print(f"... and {len(rows) - TABLE_LIMIT} more labels in metrics.json")
    if rival:
        print(f"{'mAP, unknown entries masked':{width}} {'':15} {number(metrics['mAP']):>10}")
        print(f"{'mAP, unknown taken as no':{width}} {'':15} {number(rival['mAP']):>10}")
    else:
        print(f"{'mAP':{width}} {'':15} {number(metrics['mAP']):>10}")
    if metrics["undefined_labels"]:
        names = ", ".join(metrics["undefined_labels"])
        print(f"undefined, for want of a known yes or a known no: {names}")


COMMANDS = {
    "train": run_train,
    "evaluate": run_evaluate,
    "predict": run_predict,
    "data": run_data,
    "recipes": run_recipes,
    "env": run_env,
}

if __name__ == "__main__":
    sys.exit(main())
