"""What each command does."""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halflabel_cli import SKIPPED_FILES, USER_ERROR

from ..model.errors import HalflabelError
from .light import check_outputs, read_source
from .sharing_commands import SHARING_COMMANDS
from .study_commands import STUDIES

_OUT_OF_MEMORY = (
    "out of memory: give smaller batches, in training --per_device_train_batch_size (the update stays the same with "
    "more --gradient_accumulation_steps) and --per_device_eval_batch_size, else --batch_size"
)


def run_command(options: argparse.Namespace) -> int:
    """Run a parsed command and return its exit code: 0, 2 for a user's mistake, 3 where files were skipped."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("halflabel").setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        return COMMANDS[options.command](options)
    except HalflabelError as error:
        # An error that crossed from a decoding process carries that process's traceback; its last line is ours.
        print(f"halflabel: error: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:  # a full disk, a folder without permission
        print(f"halflabel: error: {error}", file=sys.stderr)
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print(f"halflabel: error: {_OUT_OF_MEMORY}", file=sys.stderr)
        return USER_ERROR


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch, or Python, could not allocate what was asked for."""
    words = ("can't allocate memory", "Cannot allocate memory")
    return (
        isinstance(error, MemoryError)
        or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
        or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
    )


def run_train(options: argparse.Namespace) -> int:
    """Run a recipe and print its table."""
    import datasets
    from transformers.utils import logging as transformers_logging

    from ..decide.report import render_metrics
    from ..share.trained import train
    from ..training.features import keep_freed_memory
    from ..training.recipe import parse_recipe

    keep_freed_memory()
    transformers_logging.disable_progress_bar()  # the bars of loading and saving; the Trainer's own stays
    # Said of checkpoints that were written within a second, as those of a probe are.
    logging.getLogger("transformers.trainer_utils").addFilter(lambda record: "mtime" not in record.getMessage())
    datasets.disable_progress_bars()
    recipe = parse_recipe(options.recipe, options.overrides)
    result = train(recipe)
    if recipe.arguments.process_index == 0:
        print(render_metrics(result.metrics))
        print(f"\nsaved to {result.folder}")
    return 0


def run_data(options: argparse.Namespace) -> int:
    """Report on sources, and draw or write what they hold."""
    import datasets

    from ..data.images import write_shards, write_table
    from ..data.loading import load_sources, parse_sources
    from ..data.report import describe, render
    from ..share.figures import check_drawing
    from ..share.image_plots import draw_known

    datasets.disable_progress_bars()
    output = options.output
    if output and not output.endswith(("/", ".parquet")):
        raise HalflabelError(f"--output {output!r}: end it in .parquet for a table, or in / for a folder of shards")
    for file in (options.report, options.plot):
        check_outputs(file)
    if options.plot:
        check_drawing()
    given = [read_source(one) for one in options.data]
    sources = parse_sources(given, options.image_folder, options.uncertain_values)
    # What is only looked at is told whole; what is written must not hold a contradiction that nobody decided.
    policy = options.contradictions or ("error" if output else "unknown")
    images, merged = load_sources(sources, contradictions=policy)
    report = describe(images, merged, pictures=not options.labels_only)
    print(render(report))
    _write_json(options.report, report)
    if options.plot:
        draw_known(images, Path(options.plot))
        print(f"drawn: {options.plot}")
    if output and output.endswith(".parquet"):
        root = write_table(images, Path(output))
        print(f"written: {output}; its file names are relative to image_folder {root}")
    elif output:
        print(f"written: {write_shards(images, Path(output))} files in {output}")
    return SKIPPED_FILES if report.get("unreadable") else 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure a model on a split."""
    from ..data.images import check_split
    from ..decide.report import render_metrics
    from ..share.figures import check_drawing
    from ..share.metric_plots import draw_measured
    from ..use.evaluate import measure

    split, plots = check_split(options.split), Path(options.plots) if options.plots else None
    check_outputs(options.output, folder=plots)
    if plots:
        check_drawing()
    images, skipped = _load_measured(options)
    measured = measure(
        options.model, images, split, options.batch_size, options.fast_decode, options.ci, options.compare
    )
    if _is_main():
        print(render_metrics(measured.metrics))
        _write_json(options.output, {"data": [read_source(one) for one in options.data], **measured.metrics})
        if plots:
            draw_measured(plots, measured)
            print(f"drawn: {plots}")
    return SKIPPED_FILES if skipped else 0


def run_calibrate(options: argparse.Namespace) -> int:
    """Fit calibration and thresholds, store them in the model, print what they do, and bring the card up to date."""
    from ..data.images import check_split
    from ..decide.report import render_decisions
    from ..share.card import card, is_rendered
    from ..use.evaluate import calibrate

    check_outputs(options.output)
    images, skipped = _load_measured(options)
    rendered = is_rendered(options.model)  # one that somebody wrote or changed stays as it is
    report = calibrate(
        options.model, images, split=check_split(options.split), objective=options.objective,
        calibration=options.calibration, batch_size=options.batch_size, fast_decode=options.fast_decode,
    )  # fmt: skip
    if _is_main():
        print(render_decisions(report))
        if rendered:
            card(options.model)
        told = "and told in its README.md" if rendered else "whose README.md, if there is one, may tell of earlier ones"
        print(f"stored in {options.model}, {told}")
        _write_json(options.output, report)
    return SKIPPED_FILES if skipped else 0


def run_review(options: argparse.Namespace) -> int:
    """Write a table and a contact sheet of what somebody should look at."""
    from ..data.images import check_split
    from ..share.image_plots import write_review
    from ..use.review import review

    split, folder = options.split and check_split(options.split), Path(options.output)
    check_outputs(None, folder=folder)
    images, skipped = _load_measured(options)
    found = review(
        options.model, images, split=split, limit=options.limit, batch_size=options.batch_size,
        fast_decode=options.fast_decode,
    )  # fmt: skip
    if _is_main():
        write_review(found, folder)
        print(found.about)
        print(f"written: {folder / 'errors.csv'} and {folder / 'errors.png'}")
    return SKIPPED_FILES if skipped else 0


def run_explain(options: argparse.Namespace) -> int:
    """Draw where a picture speaks for labels."""
    from ..share.figures import save
    from ..share.image_plots import draw_explanation
    from ..use.explain import explain

    output = Path(options.output)
    if output.suffix != ".png":
        raise HalflabelError(f"--output {options.output!r}: end it in .png")
    check_outputs(output)
    if not Path(options.image).is_file():
        raise HalflabelError(f"no picture at {options.image!r}: give one file")
    explanation = explain(options.model, options.image, options.labels)
    save(draw_explanation(explanation), output)
    for found in explanation.labels:
        print(f"{found.label}: {'yes' if found.decision else 'no'} (score {found.score:.3f})")
    print(f"drawn: {output}")
    return 0


def _write_json(path: str | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _is_main() -> bool:
    """Tell whether this process is the one that prints and writes."""
    from ..training.features import process_state

    return bool(process_state().is_main_process)


def _load_measured(options: argparse.Namespace) -> tuple[Any, tuple[str, ...]]:
    """Load the annotated pictures of a command that runs a model on them, and a line for each that was left out."""
    from ..data.loading import load_images
    from ..training.features import keep_freed_memory

    keep_freed_memory()
    images = load_images(
        [read_source(one) for one in options.data],
        options.image_folder,
        uncertain_values=options.uncertain_values,
        contradictions=options.contradictions or "error",
        bad_images=options.bad_images,
    )
    return images, images.skipped


def run_predict(options: argparse.Namespace) -> int:
    """Score pictures and write them to a file, or to a folder in parts."""
    from ..training.features import keep_freed_memory
    from ..use.predict import Scorer, check_output, find_images, score_to

    keep_freed_memory()
    output = Path(options.output)
    check_output(options.output)
    check_outputs(*((None, output) if options.output.endswith("/") else (output,)))
    if options.resume and output.is_file() and not Path(f"{output}.parts").is_dir():
        print(f"{output} is there already: nothing to go on with")
        return 0
    files = find_images(options.images)
    scorer = Scorer(options.model, options.labels, options.batch_size, options.fast_decode)
    scored, skipped = score_to(scorer, files, options.output, options.resume, options.part_size)
    if _is_main():
        print(f"scored {scored} of {len(files)} pictures into {output}")
        for line in skipped:
            print(f"skipped: {line}", file=sys.stderr)
    return SKIPPED_FILES if skipped else 0


COMMANDS = {
    "train": run_train,
    "evaluate": run_evaluate,
    "calibrate": run_calibrate,
    "review": run_review,
    "explain": run_explain,
    "predict": run_predict,
    "data": run_data,
    **SHARING_COMMANDS,
    **STUDIES,
}
