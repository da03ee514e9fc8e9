"""What each command does: it calls the function of its name, and prints and writes what that returns.

What is typed was checked by `light`; what is heavy is imported by the command that needs it.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from halflabel_cli import SKIPPED_FILES, USER_ERROR

from ..model.errors import HalflabelError, is_out_of_memory, printable
from .light import check_outputs, read_source

_OUT_OF_MEMORY = (
    "out of memory: give smaller batches, in training --per_device_train_batch_size (the update stays the same with "
    "more --gradient_accumulation_steps) and --per_device_eval_batch_size, else --batch_size"
)


def say(text: object, stream: TextIO | None = None) -> None:
    """Print lines in which every name is harmless, see `printable`."""
    print("\n".join(map(printable, str(text).split("\n"))), file=stream)


class _Harmless(logging.Formatter):
    """Log lines in which every name is."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def run_command(options: argparse.Namespace) -> int:
    """Run a parsed command and return its exit code: 0, 2 for a user's mistake, 3 where files were skipped."""
    import datasets
    from transformers.utils import logging as transformers_logging

    from .. import keep_freed_memory

    keep_freed_memory()
    lines = logging.StreamHandler()
    lines.setFormatter(_Harmless("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    logging.getLogger("halflabel").setLevel(logging.WARNING if options.quiet else logging.INFO)
    transformers_logging.disable_progress_bar()  # the bars of loading and saving; the Trainer's own stays
    datasets.disable_progress_bars()
    try:
        return COMMANDS[options.command](options)
    except HalflabelError as error:
        # An error that crossed from a decoding process carries that process's traceback; its last line is ours.
        say(f"halflabel: error: {str(error).strip().splitlines()[-1]}", sys.stderr)
        return USER_ERROR
    except OSError as error:  # a full disk, a folder without permission
        say(f"halflabel: error: {error}", sys.stderr)
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        say(f"halflabel: error: {_OUT_OF_MEMORY}", sys.stderr)
        return USER_ERROR


def run_train(options: argparse.Namespace) -> int:
    """Run a recipe, print its table, and say what was written and what comes next."""
    from .. import train
    from ..decide.report import render_metrics
    from ..training.recipe import parse_recipe

    quiet = ["--disable_tqdm=true"] if options.quiet else []
    recipe = parse_recipe(options.recipe, [*options.overrides, *quiet])
    run = train(recipe)
    if recipe.arguments.process_index == 0:
        say(render_metrics(run.metrics))
        if run.kept is not None:
            say(f"\nkept epoch {run.kept[0]:g} of {run.kept[1]:g}, the best on validation")
        names = sorted(
            path.name for path in run.folder.glob("[!.]*") if path.name != "README.md" and path.suffix != ".py"
        )
        say(
            f"\nwritten to {run.folder}: README.md (read this first), {', '.join(names)}, and code that loads the model"
        )
        say(f"next: halflabel predict {run.folder} PHOTOS --output scores.csv")
    return 0


def run_data(options: argparse.Namespace) -> int:
    """Report on sources, and draw or write what they hold."""
    from ..data import load_sources, parse_sources, write_shards, write_table
    from ..data.report import describe, render
    from ..model.labels import count_labels
    from ..share.plots import check_drawing, draw_coverage, save

    output = options.output
    for file in (options.report, options.plot):
        check_outputs(file)
    if options.plot:
        check_drawing()
    sources = parse_sources(_sources(options), options.image_folder, options.uncertain_values)
    # What is only looked at is told whole; what is written must not hold a contradiction that nobody decided.
    policy = options.contradictions or ("error" if output else "unknown")
    images, merged = load_sources(sources, contradictions=policy)
    report = describe(images, merged, pictures=not options.labels_only)
    say(render(report))
    _write_json(options.report, report)
    if options.plot:
        save(draw_coverage(count_labels(images.labels), images.label_space.names, "the data"), Path(options.plot))
        say(f"drawn: {options.plot}")
    if output and output.endswith(".parquet"):
        root = write_table(images, Path(output))
        say(f"written: {output}; its file names are relative to image_folder {root}")
    elif output:
        say(f"written: {write_shards(images, Path(output))} files in {output}")
    return SKIPPED_FILES if report.get("unreadable") else 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure a model on a split."""
    from ..decide.report import render_metrics
    from ..share.plots import check_drawing, draw_measured
    from ..use.evaluate import measure

    plots = Path(options.plots) if options.plots else None
    check_outputs(options.output, folder=plots)
    if plots:
        check_drawing()
    images = _load(options)
    measured = measure(
        options.model, images, options.split, options.batch_size, options.fast_decode, options.ci, options.compare
    )
    if _is_main():
        say(render_metrics(measured.metrics))
        _write_json(options.output, {"data": _sources(options), **measured.metrics})
        if plots:
            draw_measured(plots, measured)
            say(f"drawn: {plots}")
    return SKIPPED_FILES if images.skipped else 0


def run_calibrate(options: argparse.Namespace) -> int:
    """Fit calibration and thresholds, store them in the model and its card, and print what they do."""
    from ..decide.report import render_decisions
    from ..share.card import is_rendered
    from ..share.trained import calibrate

    check_outputs(options.output)
    images = _load(options)
    report = calibrate(
        options.model, images, split=options.split, objective=options.objective, calibration=options.calibration,
        batch_size=options.batch_size, fast_decode=options.fast_decode,
    )  # fmt: skip
    if _is_main():
        say(render_decisions(report))
        earlier = "whose README.md, if there is one, may tell of earlier ones"  # as somebody wrote it
        told = "and told in its README.md" if is_rendered(options.model) else earlier
        say(f"stored in {options.model}, {told}")
        _write_json(options.output, report)
    return SKIPPED_FILES if images.skipped else 0


def run_review(options: argparse.Namespace) -> int:
    """Write a table and a contact sheet of what somebody should look at."""
    from .. import review
    from ..share.image_plots import write_review

    folder = Path(options.output)
    check_outputs(None, folder=folder)
    images = _load(options)
    found = review(
        options.model, images, split=options.split, limit=options.limit, batch_size=options.batch_size,
        fast_decode=options.fast_decode,
    )  # fmt: skip
    if _is_main():
        write_review(found, folder)
        say(found.about)
        say(f"written: {folder / 'errors.csv'} and {folder / 'errors.png'}")
    return SKIPPED_FILES if images.skipped else 0


def run_explain(options: argparse.Namespace) -> int:
    """Draw where a picture speaks for labels."""
    from .. import explain
    from ..share.image_plots import draw_explanation
    from ..share.plots import save

    check_outputs(options.output)
    explanation = explain(options.model, options.image, options.labels)
    save(draw_explanation(explanation), Path(options.output))
    for found in explanation.labels:
        say(f"{found.label}: {'yes' if found.decision else 'no'} (score {found.score:.3f})")
    say(f"drawn: {options.output}")
    return 0


def run_predict(options: argparse.Namespace) -> int:
    """Score pictures and write them to a file, or to a folder in parts."""
    from ..use.predict import Scorer, find_images, score_to

    output = Path(options.output)
    check_outputs(*((None, output) if options.output.endswith("/") else (output,)))
    if options.resume and output.is_file() and not Path(f"{output}.parts").is_dir():
        say(f"{output} is there already: nothing to go on with")
        return 0
    files = find_images(options.images)
    scorer = Scorer(options.model, options.labels, options.batch_size, options.fast_decode)
    scored, skipped = score_to(scorer, files, options.output, options.resume, options.part_size)
    if _is_main():
        say(f"scored {scored} of {len(files)} pictures into {output}")
        for line in skipped:
            say(f"skipped: {printable(line)}", sys.stderr)
    return SKIPPED_FILES if skipped else 0


def run_advise(options: argparse.Namespace) -> int:
    """Say whether transfer and multi-task learning make sense for the data, on the terminal and as files."""
    from .. import advise
    from ..share.page import render_advice, write_report

    stem = Path(options.output)
    check_outputs(stem)
    images = _load(options)
    advice = advise(images, backbone=options.backbone, weights=options.weights, budget=options.budget)
    say(render_advice(advice))
    say("written: " + ", ".join(str(path) for path in write_report(advice, stem)))
    failures = advice["transfer"]["failures"]
    if failures and not advice["transfer"]["backbones"]:
        raise HalflabelError(f"nothing was measured, as no backbone could be loaded: {failures[0]['reason']}")
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """Train recipes, print and save what they reach, and recommend one."""
    from transformers.utils import logging as transformers_logging

    from ..studies.compare import compare, render_comparison

    transformers_logging.set_verbosity_error()
    report = compare(
        options.recipes, _load(options), backbone=options.backbone, weights=options.weights, seeds=options.seeds,
        output=options.output,
    )  # fmt: skip
    say(render_comparison(report))
    say(f"saved to {options.output}")
    return 0


def run_push(options: argparse.Namespace) -> int:
    """Upload a finished folder to the Hub."""
    from .. import push

    private = options.private or None
    url = push(options.folder, options.repository, private, revision=options.revision, message=options.message)
    say(f"pushed to {url}")
    return 0


def run_card(options: argparse.Namespace) -> int:
    """Render a model's card again from what its folder holds."""
    from .. import card

    say(f"written: {card(options.folder, options.repository)}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Write a model in another format."""
    from .. import export

    say(export(options.model, options.output, options.format))
    say(f"written: {options.output}")
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """Show a model in the browser, or make a Space that does."""
    from .. import demo

    made = demo(options.model, options.host, options.port, options.space, options.output)
    if made is not None:
        say(f"pushed to {made}" if options.output is None else f"written: {made}")
    return 0


def _sources(options: argparse.Namespace) -> list[Any]:
    return [read_source(one) for one in options.data]


def _load(options: argparse.Namespace) -> Any:  # noqa: ANN401 - AnnotatedImages, which is heavy to import
    from .. import load_images

    return load_images(
        _sources(options),
        options.image_folder,
        uncertain_values=options.uncertain_values,
        contradictions=options.contradictions or "error",
        bad_images=getattr(options, "bad_images", "error"),
    )


def _write_json(path: str | None, content: Mapping[str, Any]) -> None:
    from ..data import write_whole

    if path is not None:
        write_whole(Path(path), json.dumps(content, indent=1) + "\n")


def _is_main() -> bool:
    """Tell whether this process is the one that prints and writes."""
    from ..data import process_state

    return bool(process_state().is_main_process)


COMMANDS = {
    "train": run_train,
    "data": run_data,
    "evaluate": run_evaluate,
    "calibrate": run_calibrate,
    "review": run_review,
    "explain": run_explain,
    "predict": run_predict,
    "advise": run_advise,
    "compare": run_compare,
    "push": run_push,
    "card": run_card,
    "export": run_export,
    "demo": run_demo,
}
