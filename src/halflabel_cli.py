"""The command line's parser. It stands outside the package so that `halflabel --help` need not import torch."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

SKIPPED_FILES, USER_ERROR = 3, 2

_BAD = "a picture that cannot be read: error (default), or skip, and list it"
_SOURCE = (
    "files, folders, data sets of the Hub, or street_scenes; one with options as JSON: "
    '\'{"path": "a.json", "absent": "unknown"}\''
)


_EXAMPLES = {
    "train": "halflabel train linear_probe --data labels.csv --learning_rate 1e-3",
    "evaluate": "halflabel evaluate outputs/linear_probe --data labels.csv --ci 0.95",
    "calibrate": 'halflabel calibrate outputs/linear_probe --data more.csv --objective "precision>=0.9"',
    "errors": "halflabel errors outputs/linear_probe --data labels.csv --output look/",
    "explain": "halflabel explain outputs/linear_probe photo.jpg",
    "compare": "halflabel compare labels.csv --recipes linear_probe self_train",
    "predict": "halflabel predict outputs/linear_probe photos/ --output scores.csv",
    "data": "halflabel data labels.csv --plot known.png",
    "advise": "halflabel advise labels.csv --weights installed",
    "card": "halflabel card outputs/linear_probe",
    "demo": "halflabel demo outputs/linear_probe",
    "export": "halflabel export outputs/linear_probe --format timm --output plain",
    "push": "halflabel push outputs/linear_probe me/my-model",
    "recipes": "halflabel recipes linear_probe > mine.yaml",
    "env": "halflabel env",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `halflabel` and its commands."""
    parser = argparse.ArgumentParser(
        prog="halflabel",
        description="Fine-tune timm backbones to many yes/no labels when most of them are unknown.",
        epilog="Begin with: halflabel train quickstart. With pictures of your own: data, train linear_probe, evaluate, "
        "predict. What a command takes: halflabel COMMAND --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    train = commands.add_parser(
        "train",
        help="run a recipe: train, test and save a model",
        description="Run a recipe. Every key of a recipe, and every field of transformers.TrainingArguments, "
        "can be set as --key value, which is stronger than the file. halflabel recipes --keys lists the keys; a recipe "
        "of your own begins as a copy: halflabel recipes linear_probe > mine.yaml. Writes to outputs/RECIPE, in the "
        "place of an earlier run, or to --output_dir.",
    )
    train.add_argument("recipe", help="a YAML file, or the name of a shipped recipe (see: halflabel recipes)")
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_errors(commands)
    _add_explain(commands)
    _add_compare(commands)
    _add_predict(commands)
    data = commands.add_parser("data", help="look at annotated data, merge it, write it")
    data.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCE)
    _add_source_options(data)
    data.add_argument("--labels_only", action="store_true", help="do not open the pictures")
    data.add_argument("--plot", metavar="PNG", help="draw what is known")
    data.add_argument("--output", help="a .parquet file, or a folder (ending in /) for shards with the pictures inside")
    data.add_argument("--report", metavar="JSON", help="also write the report to this file")
    _add_advise(commands)
    _add_card(commands)
    _add_demo(commands)
    _add_export(commands)
    _add_push(commands)
    recipes = commands.add_parser("recipes", help="list the shipped recipes, print one, or list the keys of recipes")
    recipes.add_argument("name", nargs="?", metavar="RECIPE", help="print this one")
    recipes.add_argument("--keys", action="store_true", help="list the keys, with what they mean and their defaults")
    commands.add_parser("env", help="print versions, for bug reports")
    for name, command in commands.choices.items():
        command.epilog = f"Example: {_EXAMPLES[name]}"
    return parser


def _add_evaluate(commands: Any) -> None:  # noqa: ANN401 - argparse does not name its type
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a model on a table's known labels",
        description="Measures average precision, precision, recall and F1 of each label on its known entries; the "
        "last three at the label's own threshold.",
    )
    _add_measured(evaluate, "test", "which split to measure on: train, validation or test")
    evaluate.add_argument(
        "--ci", type=float, help="also bootstrap intervals of this confidence, like 0.95 (default: none)"
    )
    evaluate.add_argument("--plots", metavar="FOLDER", help="also draw what was measured")
    evaluate.add_argument(
        "--compare", metavar="MODEL", help="another model, for paired differences on the same entries"
    )
    evaluate.add_argument("--output", help="also write the measures to this JSON file")


def _add_calibrate(commands: Any) -> None:  # noqa: ANN401
    calibrate = commands.add_parser(
        "calibrate", help="fit calibrated scores and a threshold per label, and store them in the model"
    )
    _add_measured(calibrate, "validation", "which split to fit on; never the one to be measured on")
    calibrate.add_argument(
        "--objective",
        default="f1",
        help="f1 (default; or another beta: f0.5, f2), precision>=0.9, recall>=0.95, or rate=0.05",
    )
    calibrate.add_argument("--calibration", default="platt", help="platt (default), temperature or none")
    calibrate.add_argument("--output", help="also write the report to this JSON file")


def _add_errors(commands: Any) -> None:  # noqa: ANN401
    errors = commands.add_parser(
        "errors", help="likely annotation mistakes, and what to annotate next", description="Lists known answers that "
        "the model disagrees with most, and unknown ones that it is surest and least sure about. An entry's margin is "
        "how far its score is beyond the label's threshold, from -1 (score 0) to 1 (score 1); a threshold above 1 "
        "says that the label is never answered with yes."
    )  # fmt: skip
    _add_measured(errors, None, "which split to look at: train, validation or test")
    errors.add_argument("--limit", type=int, default=20, help="the most entries of each kind (default: 20)")
    errors.add_argument("--output", required=True, metavar="FOLDER", help="for errors.csv and errors.png")


def _add_explain(commands: Any) -> None:  # noqa: ANN401
    explain = commands.add_parser("explain", help="draw where a picture speaks for a label")
    explain.add_argument("model", help="a model's folder or Hub name")
    explain.add_argument("image", help="a picture file")
    explain.add_argument("--labels", nargs="+", metavar="LABEL", help="default: the six with the highest scores")
    explain.add_argument("--output", default="explanation.png", metavar="PNG", help="default: explanation.png")


def _add_predict(commands: Any) -> None:  # noqa: ANN401
    predict = commands.add_parser(
        "predict", help="score pictures", description="Writes a row per picture: its file name, the labels answered "
        "with yes, and a score from 0 to 1 for each label."
    )  # fmt: skip
    predict.add_argument("model", help="a model's folder or Hub name")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="folders, globs or files")
    predict.add_argument(
        "--output", required=True, help="a .csv, .jsonl or .parquet file, or a folder (ending in /) for Parquet parts"
    )
    predict.add_argument("--labels", nargs="+", metavar="LABEL", help="score only these labels")
    predict.add_argument("--batch_size", type=_positive, default=32, help="most pictures at once (default: 32)")
    predict.add_argument(
        "--part_size", type=_positive, default=4096, metavar="N", help="pictures written at once (default: 4096)"
    )
    predict.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    predict.add_argument("--no_fast_decode", action="store_false", dest="fast_decode", help="decode every JPEG in full")


def _add_card(commands: Any) -> None:  # noqa: ANN401
    card = commands.add_parser("card", help="render a model's README.md again from what its folder holds")
    card.add_argument("folder", help="the output folder of a run, or a copy of it from the Hub")
    card.add_argument("--repository", help="the Hub name to load from in the card, like me/my-model")


def _add_demo(commands: Any) -> None:  # noqa: ANN401
    demo = commands.add_parser("demo", help="show a model in the browser, or make a Space of it (extra demo)")
    demo.add_argument("model", help="a model's folder or Hub name")
    demo.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine alone)")
    demo.add_argument("--port", type=_positive, help="default: the first free one from 7860")
    demo.add_argument("--space", metavar="NAME", help="instead push the page to the Hub as this Space, like me/my-demo")
    demo.add_argument("--output", metavar="FOLDER", help="write the Space there, and do not push it")


def _add_export(commands: Any) -> None:  # noqa: ANN401
    export = commands.add_parser("export", help="write a model in a format that needs no halflabel")
    export.add_argument("model", help="a model's folder or Hub name")
    export.add_argument(
        "--format", required=True, help="timm: for timm and plain transformers; onnx: for ONNX runtimes (extra onnx)"
    )
    export.add_argument("--output", required=True, metavar="FOLDER", help="a new folder, or one of an earlier export")


def _add_push(commands: Any) -> None:  # noqa: ANN401
    push = commands.add_parser("push", help="upload a trained model's folder to the Hub")
    push.add_argument("folder", help="the output folder of a run")
    push.add_argument("repository", help="a Hub name, like me/my-model; it is created where it is not there yet")
    push.add_argument("--private", action="store_true", help="nobody else sees a repository that is created")
    push.add_argument("--revision", help="the branch, created where it is not there yet (default: main)")
    push.add_argument("--message", help="the commit's title (default: Upload NAME)")


def _add_advise(commands: Any) -> None:  # noqa: ANN401
    advise = commands.add_parser(
        "advise", help="does transfer make sense for these data, and multi-task?", description="Measures on the data, "
        "without the test split, what pretrained weights are worth and which labels to train together."
    )  # fmt: skip
    advise.add_argument("data", nargs="+", metavar="SOURCE", help=_SOURCE)
    _add_source_options(advise)
    advise.add_argument("--bad_images", choices=("error", "skip"), default="error", help=_BAD)
    advise.add_argument(
        "--backbone",
        nargs="+",
        default=["tf_efficientnet_lite0"],
        metavar="NAME",
        help="timm names, to be ranked (default: tf_efficientnet_lite0)",
    )
    advise.add_argument("--weights", default="hub", help="hub (default), installed, or the path of a file")
    advise.add_argument(
        "--budget",
        choices=("quick", "full"),
        default="quick",
        help="quick (default): probes, in minutes; full: also train networks, for hours on a CPU",
    )
    advise.add_argument(
        "--output", default="advice/report", metavar="FILE", help="without ending (default: advice/report)"
    )


def _add_compare(commands: Any) -> None:  # noqa: ANN401
    compare = commands.add_parser(
        "compare",
        help="train recipes, measure them on held-out labels, and recommend one",
        description="Trains recipes on cached features, with known labels held out in turn. Recipes that hide labels "
        "(--keep_labels, --hide_per_label ...; all of them alike) are also measured on the test split. A comparison "
        "that was stopped goes on where it was.",
    )
    compare.add_argument("data", nargs="+", metavar="DATA", help=_SOURCE)
    _add_source_options(compare)
    compare.add_argument(
        "--recipes",
        required=True,
        nargs="+",
        metavar="RECIPE",
        help='with overrides in quotes: "linear_probe --loss em"',
    )
    compare.add_argument("--seeds", type=_positive, default=3, metavar="N", help="how often (default: 3)")
    compare.add_argument("--backbone", help="in the place of the recipes' own")
    compare.add_argument("--weights", help="likewise: hub, installed, the path of a file, or none")
    compare.add_argument("--output", default="comparison", metavar="FOLDER", help="default: comparison")


def _add_measured(parser: argparse.ArgumentParser, split: str | None, what: str) -> None:
    parser.add_argument("model", help="a model's folder or Hub name")
    parser.add_argument("--data", required=True, nargs="+", metavar="SOURCE", help=_SOURCE)
    _add_source_options(parser)
    parser.add_argument("--bad_images", choices=("error", "skip"), default="error", help=_BAD)
    parser.add_argument("--split", default=split, help=f"{what} (default: {split or 'all'})")
    parser.add_argument("--batch_size", type=_positive, default=32, help="pictures at once (default: 32)")
    parser.add_argument("--no_fast_decode", action="store_false", dest="fast_decode", help="decode every JPEG in full")


def _positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image_folder", metavar="FOLDER", help="what file names are relative to (default: the table's folder, or "
        "images in it)"
    )  # fmt: skip
    parser.add_argument("--uncertain_values", nargs="+", default=[], metavar="CELL", help="cells that mean uncertain")
    parser.add_argument(
        "--contradictions", metavar="WHAT", help="an entry that sources disagree about: error (default; for data "
        "without --output unknown), unknown, or first, as the source that is named first says"
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, then import the package and run; a user's mistake ends in one line and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    options, rest = parser.parse_known_args(given)
    if rest and options.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = rest

    from halflabel.cli.commands import run_command  # the heavy import: after the parsing

    return run_command(options)


if __name__ == "__main__":
    sys.exit(main())
