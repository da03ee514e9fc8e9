"""The command line's parser. It stands outside the package, whose import takes seconds, and imports nothing heavy."""

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from itertools import takewhile
from types import ModuleType
from typing import Any, NoReturn

SKIPPED_FILES, USER_ERROR, STOPPED = 3, 2, 130

_SOURCE = (
    "files, folders, data sets of the Hub, or street_scenes; one with options as JSON: "
    '\'{"path": "a.json", "absent": "unknown"}\''
)
_MODEL = "a model's folder or Hub name"

_EXAMPLES = {
    "train": "halflabel train linear_probe labels.csv --lr 1e-3",
    "evaluate": "halflabel evaluate outputs/linear_probe labels.csv --plots plots/",
    "calibrate": 'halflabel calibrate outputs/linear_probe more.csv --objective "precision>=0.9"',
    "review": "halflabel review outputs/linear_probe labels.csv --output look/",
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


class UsageError(Exception):
    """Words that the parser cannot make a command of."""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line; the one of `train` also lists the keys of recipes in its help."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print below its usage."""
        raise UsageError(
            f"{message.replace('the following arguments are required', 'missing')}; see {self.prog} --help"
        )

    def format_help(self) -> str:
        """Return the help."""
        text = super().format_help()
        if self.prog != "halflabel train":
            return text
        with _light() as light:
            return "\n".join([text, "keys:", *light.describe_keys(), ""])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `halflabel` and its commands."""
    parser = _Parser(
        prog="halflabel",
        allow_abbrev=False,
        description="Fine-tune timm backbones to many yes/no labels when most of them are unknown.",
        epilog="Begin with: halflabel train quickstart. With pictures of your own: data, train linear_probe, evaluate, "
        "predict. What a command takes: halflabel COMMAND --help.",
    )
    parser.add_argument("--version", action="version", version=f"halflabel {version('halflabel')}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    common = _Parser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="say only what was found, and what is wrong")

    def add(name: str, help: str, description: str | None = None) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=help, description=description or f"{help[0].upper()}{help[1:]}.", parents=[common],
            allow_abbrev=False, epilog=f"Example: {_EXAMPLES[name]}",
        )  # fmt: skip
        return made

    _add_train(add("train", "run a recipe: train, test and save a model", "Run a recipe. Every key of a recipe, and "
        "every field of transformers.TrainingArguments, can be set as --key value, which is stronger than the file. A "
        "recipe of your own begins as a copy: halflabel recipes linear_probe > mine.yaml. Writes to outputs/RECIPE, in "
        "the place of an earlier run, or to --output_dir."))  # fmt: skip
    _add_evaluate(add("evaluate", "measure a model on known labels", "Measures average precision, precision, recall "
        "and F1 of each label on its known entries; the last three at the label's own threshold."))  # fmt: skip
    _add_calibrate(add("calibrate", "fit calibrated scores and a threshold per label, and store them in the model"))
    _add_review(add("review", "likely annotation mistakes, and what to annotate next", "Lists known answers that the "
        "model disagrees with most, and unknown ones that it is surest and least sure about. An entry's margin is how "
        "far its score is beyond the label's threshold, from -1 (score 0) to 1 (score 1); a threshold above 1 says "
        "that the label is never answered with yes."))  # fmt: skip
    _add_explain(add("explain", "draw where a picture speaks for a label"))
    _add_compare(add("compare", "train recipes on the same data, and recommend one", "Trains recipes on cached "
        "features; known labels are held out in turn. Where the recipes hide labels (keep_labels, hide_per_label ...), "
        "the test split measures, too. A comparison that was stopped goes on where it was."))  # fmt: skip
    _add_predict(add("predict", "score pictures", "Writes a row per picture: its file name, the labels answered with "
        "yes, and a score from 0 to 1 for each label."))  # fmt: skip
    _add_data(add("data", "look at annotated data, merge it, write it"))
    _add_advise(add("advise", "does transfer make sense for these data, and multi-task?", "Measures on the data, "
        "without the test split, what pretrained weights are worth and which labels to train together."))  # fmt: skip
    card = add("card", "render a model's README.md again from what its folder holds")
    card.add_argument("folder", help="the output folder of a run, or a copy of it from the Hub")
    card.add_argument("--repository", help="the Hub name to load from in the card, like me/my-model")
    _add_demo(add("demo", "show a model in the browser, or make a Space of it (extra demo)"))
    export = add("export", "write a model in a format that needs no halflabel")
    export.add_argument("model", help=_MODEL)
    export.add_argument("--format", required=True, help="timm: for timm and plain transformers; onnx (extra onnx)")
    export.add_argument("--output", required=True, metavar="FOLDER", help="a new folder, or one of an earlier export")
    _add_push(add("push", "upload a trained model's folder to the Hub"))
    recipes = add("recipes", "list the shipped recipes, print one, or list the keys of recipes")
    recipes.add_argument("name", nargs="?", metavar="RECIPE", help="print this one")
    recipes.add_argument("--keys", action="store_true", help="list the keys, with what they mean and their defaults")
    add("env", "print versions, for bug reports")
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("recipe", help="a YAML file, or the name of a shipped recipe (see: halflabel recipes)")
    train.add_argument("data", nargs="*", metavar="DATA", help=f"in the place of the recipe's: {_SOURCE}")
    train.usage = "halflabel train RECIPE [DATA ...] [--quiet] [--key value ...]"


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    _add_measured(evaluate, "test", "which split to measure on: train, validation or test")
    evaluate.add_argument("--ci", type=float, default=0.95, help="confidence of the intervals (0.95)")
    evaluate.add_argument("--plots", metavar="FOLDER", help="also draw what was measured")
    evaluate.add_argument("--compare", metavar="MODEL", help="another model, for paired differences")
    evaluate.add_argument("--output", help="also write the measures to this JSON file")


def _add_calibrate(calibrate: argparse.ArgumentParser) -> None:
    _add_measured(calibrate, "validation", "which split to fit on; never the one to be measured on")
    calibrate.add_argument("--objective", default="f1", help="f1 (default; or another beta: f0.5, f2), precision>=0.9, "
        "recall>=0.95, or rate=0.05")  # fmt: skip
    calibrate.add_argument("--calibration", default="platt", help="platt (default), temperature or none")
    calibrate.add_argument("--output", help="also write the report to this JSON file")


def _add_review(review: argparse.ArgumentParser) -> None:
    _add_measured(review, None, "which split to look at: train, validation or test")
    review.add_argument("--limit", type=int, default=20, help="the most entries of each kind (default: 20)")
    review.add_argument("--output", required=True, metavar="FOLDER", help="for errors.csv and errors.png")


def _add_explain(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("model", help=_MODEL)
    explain.add_argument("image", help="a picture file")
    explain.add_argument("--labels", nargs="+", metavar="LABEL", help="default: the six with the highest scores")
    explain.add_argument("--output", default="explanation.png", metavar="PNG", help="default: explanation.png")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    _add_sources(compare)
    compare.add_argument("--recipes", required=True, nargs="+", metavar="RECIPE", help="names or paths; with overrides "
        'in quotes: "linear_probe --loss em"')  # fmt: skip
    compare.add_argument("--seeds", type=_positive, default=3, metavar="N", help="how often (default: 3)")
    compare.add_argument("--backbone", help="in the place of the recipes' own")
    compare.add_argument("--weights", help="likewise: hub, installed, the path of a file, or none")
    compare.add_argument("--output", default="comparison", metavar="FOLDER", help="default: comparison")


def _add_predict(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("model", help=_MODEL)
    predict.add_argument("images", nargs="+", metavar="PATH", help="folders, globs or files")
    predict.add_argument("--output", required=True, help="a .csv, .jsonl or .parquet file, or a folder (ending in /) "
        "for Parquet parts")  # fmt: skip
    predict.add_argument("--labels", nargs="+", metavar="LABEL", help="score only these labels")
    predict.add_argument("--batch_size", type=_positive, default=32, help="most pictures at once (default: 32)")
    predict.add_argument("--part_size", type=_positive, default=4096, metavar="N", help="pictures written at once "
        "(default: 4096)")  # fmt: skip
    predict.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    predict.add_argument("--no_fast_decode", action="store_false", dest="fast_decode", help="decode every JPEG in full")


def _add_data(data: argparse.ArgumentParser) -> None:
    _add_sources(data)
    data.add_argument("--labels_only", action="store_true", help="do not open the pictures")
    data.add_argument("--plot", metavar="PNG", help="draw what is known")
    data.add_argument("--output", help="a .parquet file, or a folder (ending in /) for shards with the pictures inside")
    data.add_argument("--report", metavar="JSON", help="also write the report to this file")


def _add_advise(advise: argparse.ArgumentParser) -> None:
    _add_sources(advise)
    _add_bad_images(advise)
    advise.add_argument("--backbone", nargs="+", default=["tf_efficientnet_lite0"], metavar="NAME", help="timm names, "
        "to be ranked (default: tf_efficientnet_lite0)")  # fmt: skip
    advise.add_argument("--weights", default="hub", help="hub (default), installed, or the path of a file")
    advise.add_argument("--budget", choices=("quick", "full"), default="quick", help="quick (default): probes, in "
        "minutes; full: also train networks, for hours on a CPU")  # fmt: skip
    advise.add_argument("--output", default="advice/report", metavar="FILE", help="without ending (default: "
        "advice/report)")  # fmt: skip


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("model", help=_MODEL)
    demo.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine alone)")
    demo.add_argument("--port", type=_positive, help="default: the first free one from 7860")
    demo.add_argument("--space", metavar="NAME", help="instead push the page to the Hub as this Space, like me/my-demo")
    demo.add_argument("--output", metavar="FOLDER", help="write the Space there, and do not push it")


def _add_push(push: argparse.ArgumentParser) -> None:
    push.add_argument("folder", help="the output folder of a run")
    push.add_argument("repository", help="a Hub name, like me/my-model; it is created where it is not there yet")
    push.add_argument("--private", action="store_true", help="nobody else sees a repository that is created")
    push.add_argument("--revision", help="the branch, created where it is not there yet (default: main)")
    push.add_argument("--message", help="the commit's title (default: Upload NAME)")


def _add_measured(parser: argparse.ArgumentParser, split: str | None, what: str) -> None:
    parser.add_argument("model", help=_MODEL)
    _add_sources(parser, "*")
    parser.add_argument("--data", nargs="+", metavar="DATA", dest="data_option", help="the same, by name")
    _add_bad_images(parser)
    parser.add_argument("--split", default=split, help=f"{what} (default: {split or 'all'})")
    parser.add_argument("--batch_size", type=_positive, default=32, help="pictures at once (default: 32)")
    parser.add_argument("--no_fast_decode", action="store_false", dest="fast_decode", help="decode every JPEG in full")


def _add_bad_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bad_images", default="error", metavar="WHAT", help="a picture that cannot be read: error "
        "(default), or skip, and list it")  # fmt: skip


def _add_sources(parser: argparse.ArgumentParser, count: str = "+") -> None:
    parser.add_argument("data", nargs=count, metavar="DATA", help=_SOURCE)
    parser.add_argument("--image_folder", metavar="FOLDER", help="what file names are relative to (default: the "
        "table's folder, or images in it)")  # fmt: skip
    parser.add_argument("--uncertain_values", nargs="+", default=[], metavar="CELL", help="cells that mean uncertain")
    parser.add_argument("--contradictions", metavar="WHAT", help="an entry that sources disagree about: error "
        "(default; for data without --output unknown), unknown, or first, as the source that is named first "
        "says")  # fmt: skip


def _positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def parse(given: Sequence[str], did_you_mean: Any) -> argparse.Namespace:  # noqa: ANN401
    """Read what was typed.

    Args:
        given: The words behind `halflabel`.
        did_you_mean: `model.errors.did_you_mean`.

    Raises:
        UsageError: With the nearest word.
    """
    parser = build_parser()
    assert parser._subparsers is not None
    commands: Any = parser._subparsers._group_actions[0].choices
    command = given[0] if given else "--help"
    if not command.startswith("-") and command not in commands:
        renamed = "; it is called review" if command == "errors" else did_you_mean(command, commands, 1)
        raise UsageError(f"unknown command {command!r}{renamed}; halflabel --help lists them")
    overrides: list[str] = []
    words = [command, *given[1:]]
    if command == "train" and not {"-h", "--help"} & set(given):
        quiet = [word for word in words if word == "--quiet"]
        rest = [word for word in words if word != "--quiet"]
        words = list(takewhile(lambda word: not word.startswith("--"), rest))
        overrides, words = rest[len(words) :], words + quiet
    known = [word for action in commands.get(command, parser)._actions for word in action.option_strings]
    for word in (word.partition("=")[0] for word in words[1:] if word.startswith("--")):
        if word not in known:
            raise UsageError(
                f"unknown option {word}{did_you_mean(word, known, 1) or f'; see {parser.prog} {command} --help'}"
            )
    options, unknown = parser.parse_known_args(words)
    if "data_option" in options:
        options.data += options.data_option or []
        if not any(word.startswith("-") for word in unknown):  # argparse takes no such words behind an option
            options.data, unknown = options.data + unknown, []
    if unknown:
        raise UsageError(f"unexpected {unknown[0]!r}; see halflabel {command} --help")
    options.overrides = overrides
    return options


@contextmanager
def _light() -> Iterator[Any]:
    """Give `halflabel.cli.light` without the package's own import, which takes seconds, where it is not imported yet.

    A stand-in without content takes the package's place for as long; afterwards nothing is left of it.
    """
    name = "halflabel"
    if name in sys.modules:
        yield importlib.import_module(f"{name}.cli.light")
        return
    spec = importlib.util.find_spec(name)
    stand_in = ModuleType(name)
    stand_in.__path__ = list((spec and spec.submodule_search_locations) or ())
    sys.modules[name] = stand_in
    try:
        yield importlib.import_module(f"{name}.cli.light")
    finally:
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[module]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, check, then import the package and run; a user's mistake ends in one line and exit code 2.

    Ctrl-C and SIGTERM end in a line that says what is kept and what goes on with it, and exit code 130. As a process of
    its own, without arguments, the command ends at once, whatever it does: whole files alone have their names.
    """
    stop = _Stop(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as a shell has it for what runs in the background
                signal.signal(number, stop)
    try:
        return _run(stop)
    except KeyboardInterrupt:
        if arguments is None:
            stop.end()
        stop.tell()
        return STOPPED


class _Stop:
    """What happens at Ctrl-C and at SIGTERM, in any moment of a command."""

    def __init__(self, given: list[str]) -> None:
        """Keep the words behind `halflabel`; what the command leaves is known when they are read."""
        self.given, self.process = given, os.getpid()
        self.describe: Callable[[Sequence[str]], str] = lambda words: "nothing was begun"

    def __call__(self, number: int, frame: object) -> None:
        """Take the signal: a training that gets SIGTERM ends by itself, when it has written a checkpoint."""
        trainer: Any = sys.modules.get("halflabel.training.trainer")
        if number == signal.SIGTERM and trainer is not None and trainer.SaveAndStop.ask():
            return
        self.end()

    def tell(self) -> None:
        """Print the line, below a progress bar; past Python's own streams, which may be in the middle of a write."""
        if os.environ.get("RANK", "0") == "0":
            os.write(2, f"\nhalflabel: stopped: {self.describe(self.given)}\n".encode())

    def end(self) -> NoReturn:
        """Print the line and leave, without waiting for threads; loading processes end with this one."""
        if os.getpid() == self.process:
            self.tell()
            multiprocessing: Any = sys.modules.get("multiprocessing")
            for child in multiprocessing.active_children() if multiprocessing else ():
                child.kill()
        os._exit(STOPPED)


def _run(stop: _Stop) -> int:
    with _light() as light:
        try:
            options = parse(stop.given, light.did_you_mean)
            stop.describe = partial(light.what_is_kept, options)
            code: int | None = light.answer(options)
        except (UsageError, light.HalflabelError, OSError) as error:
            print(f"halflabel: error: {light.printable(error)}", file=sys.stderr)
            return USER_ERROR
    if code is not None:
        return code
    if options.quiet:
        os.environ["TQDM_DISABLE"] = "1"
    from halflabel.cli.commands import run_command  # the heavy import: after the checks

    return run_command(options)


if __name__ == "__main__":
    sys.exit(main())
