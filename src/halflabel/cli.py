"""What each command does; `python -m halflabel.cli` and `accelerate launch -m halflabel.cli` start here too."""

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halflabel_cli import SKIPPED_FILES, USER_ERROR, main

from .errors import HalflabelError
from .study_commands import STUDIES


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
    except OSError as error:  # a full disk, a folder without permission
        print(f"halflabel: error: {error}", file=sys.stderr)
        return USER_ERROR


def run_train(options: argparse.Namespace) -> int:
    """Run a recipe and print its table."""
    import datasets
    from transformers.utils import logging as transformers_logging

    from .allocator import keep_freed_memory
    from .arguments import parse_recipe
    from .metric_table import render_metrics
    from .training import train

    keep_freed_memory()
    transformers_logging.disable_progress_bar()  # the bars of loading and saving; the Trainer's own stays
    datasets.disable_progress_bars()
    recipe = parse_recipe(options.recipe, options.overrides)
    result = train(recipe)
    if recipe.training.process_index == 0:
        print(render_metrics(result.metrics))
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
    for file in (options.report, options.plot):
        _check_outputs(file)
    given = [_source(one) for one in options.sources]
    sources = parse_sources(given, options.image_folder, options.uncertain_values)
    # What is only looked at is told whole; what is written must not hold a contradiction that nobody decided.
    policy = options.contradictions or ("error" if output else "unknown")
    images, merged = load_sources(sources, contradictions=policy)
    report = describe(images, merged, pictures=not options.labels_only)
    print(render(report))
    _write_json(options.report, report)
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
    from .evaluation import evaluate_model
    from .metric_table import render_metrics
    from .sources.annotated_images import check_split

    split, plots = check_split(options.split), Path(options.plots) if options.plots else None
    _check_outputs(options.output, folder=plots)
    images, skipped = _load_measured(options)
    metrics = evaluate_model(
        options.model, images, split, options.batch_size, options.fast_decode, options.ci, plots, options.compare
    )
    if _is_main():
        print(render_metrics(metrics))
        _write_json(options.output, metrics)
        if plots:
            print(f"drawn: {plots}")
    return SKIPPED_FILES if skipped else 0


def run_calibrate(options: argparse.Namespace) -> int:
    """Fit calibration and thresholds, store them in the model, and print what they do."""
    from .decision_report import render_decisions
    from .model_calibration import calibrate_model
    from .sources.annotated_images import check_split

    _check_outputs(options.output)
    images, skipped = _load_measured(options)
    report = calibrate_model(
        options.model, images, check_split(options.split), options.objective, options.calibration,
        batch_size=options.batch_size, fast_decode=options.fast_decode,
    )  # fmt: skip
    if _is_main():
        print(render_decisions(report))
        print(f"stored in {options.model}; its README.md and metrics.json still tell of the earlier thresholds")
        _write_json(options.output, report)
    return SKIPPED_FILES if skipped else 0


def run_errors(options: argparse.Namespace) -> int:
    """Write a table and a contact sheet of what somebody should look at."""
    from .evaluation import find_errors
    from .sources.annotated_images import check_split

    split, folder = options.split and check_split(options.split), Path(options.output)
    _check_outputs(None, folder=folder)
    images, skipped = _load_measured(options)
    about = find_errors(options.model, images, split, options.limit, folder, options.batch_size, options.fast_decode)
    if _is_main():
        print(about)
        print(f"written: {folder / 'errors.csv'} and {folder / 'errors.png'}")
    return SKIPPED_FILES if skipped else 0


def run_explain(options: argparse.Namespace) -> int:
    """Draw where a picture speaks for labels."""
    from .decoding import decode_image
    from .explain import explain, write_explanation
    from .inference import load_model

    output = Path(options.output)
    if output.suffix != ".png":
        raise HalflabelError(f"--output {options.output!r}: end it in .png")
    _check_outputs(output)
    if not Path(options.image).is_file():
        raise HalflabelError(f"no picture at {options.image!r}: give one file")
    model, processor = load_model(options.model)
    # As `predict` decodes it, so that the scores are the same.
    picture = decode_image({"path": options.image}, options.image, processor.needed_side())
    explanation = explain(model, processor, picture, options.labels)
    write_explanation(output, explanation)
    for found in explanation.labels:
        print(f"{found.label}: {'yes' if found.decision else 'no'} (score {found.score:.3f})")
    print(f"drawn: {output}")
    return 0


def _check_outputs(file: str | Path | None, folder: Path | None = None) -> None:
    """Refuse, before any work is done for it, an output that cannot be written; folders that are missing are made."""
    for place in (folder, None if file is None else Path(file).parent):
        if place is not None:
            if place.exists() and not place.is_dir():
                raise HalflabelError(f"{place} is a file; a folder is needed there")
            place.mkdir(parents=True, exist_ok=True)
            if not os.access(place, os.W_OK):
                raise HalflabelError(f"{place} cannot be written to")
    if file is not None and Path(file).is_dir():
        raise HalflabelError(f"{file} is a folder; give the name of a file")


def _write_json(path: str | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _is_main() -> bool:
    """Tell whether this process is the one that prints and writes."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _load_measured(options: argparse.Namespace) -> tuple[Any, tuple[str, ...]]:
    """Load the annotated pictures of a command that runs a model on them, and a line for each that was left out."""
    from .allocator import keep_freed_memory
    from .preparation import leave_out_unreadable
    from .sources import load_source

    keep_freed_memory()
    images = load_source(
        [_source(one) for one in options.data],
        options.image_folder,
        uncertain_values=options.uncertain_values,
        contradictions=options.contradictions or "error",
    )
    return leave_out_unreadable(images) if options.bad_images == "skip" else (images, ())


def run_predict(options: argparse.Namespace) -> int:
    """Score pictures and write them to a file."""
    from .allocator import keep_freed_memory
    from .inference import check_output, find_images, predict_files, write_scores

    keep_freed_memory()
    output = Path(options.output)
    check_output(output)
    _check_outputs(output)
    files = find_images(options.paths)
    frame, skipped = predict_files(
        options.model, files, options.labels, options.batch_size, options.fast_decode, options.given
    )
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


COMMANDS = {
    "train": run_train,
    "evaluate": run_evaluate,
    "calibrate": run_calibrate,
    "errors": run_errors,
    "explain": run_explain,
    "predict": run_predict,
    "data": run_data,
    "recipes": run_recipes,
    "env": run_env,
    **STUDIES,
}

if __name__ == "__main__":
    sys.exit(main())
