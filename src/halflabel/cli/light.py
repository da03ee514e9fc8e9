"""What the command line answers and checks before anything heavy is imported: words, recipes, and where things lie."""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import fields
from glob import glob
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..data.files import check_data_place, check_model_place
from ..model.errors import HalflabelError, did_you_mean, nearest_file
from ..model.errors import printable as printable
from ..training.keys import (
    GROUPS,
    LIBRARIES,
    SHORT,
    TRAINING_DEFAULTS,
    choices,
    find_recipe,
    read_keys,
    shipped_recipes,
    split_entrant,
)

WORDS = {
    "split": ("train", "validation", "test"),
    "calibration": ("platt", "temperature", "none"),
    "contradictions": ("error", "unknown", "first"),
    "bad_images": ("error", "skip"),
    "format": ("timm", "onnx"),
}
"""Options that take one of a few words; tests hold them equal to what the rooms take."""

_ENDINGS = {
    "predict": (
        (".csv", ".jsonl", ".parquet", "/"),
        "it ends in none of .csv, .jsonl, .parquet, / (a folder of parts)",
    ),
    "data": ((".parquet", "/"), "end it in .parquet for a table, or in / for a folder of shards"),
    "explain": ((".png",), "end it in .png"),
}


def answer(options: argparse.Namespace) -> int | None:
    """Run a command that needs nothing heavy, or check what is typed of another one.

    Returns:
        The exit code; None where the command is still to be run.

    Raises:
        HalflabelError: On a mistake in words, recipes or paths.
    """
    if options.command in _ANSWERS:
        _ANSWERS[options.command](options)
        return 0
    for name, words in WORDS.items():
        value = getattr(options, name, None)
        if value is not None and value not in words:
            raise HalflabelError(f"{name} {value!r} is none of {', '.join(words)}{did_you_mean(value, words)}")
    endings, advice = _ENDINGS.get(options.command, ("", ""))
    if getattr(options, "output", None) is not None and not options.output.endswith(endings):
        raise HalflabelError(f"--output {options.output!r}: {advice}")
    if options.command == "train":
        _check_train(options)
    elif "data" in options and not options.data:
        raise HalflabelError(f"{options.command} needs data: files, folders, or data sets of the Hub")
    for source in getattr(options, "data", None) or ():
        if not source.lstrip().startswith("{"):
            check_data_place(source)
    for model in (getattr(options, "model", None), getattr(options, "compare", None)):
        if model is not None:
            check_model_place(model)
    if "image" in options and not os.path.isfile(options.image):
        raise HalflabelError(f"no picture at {options.image!r}: give one file{nearest_file(options.image)}")
    for name in getattr(options, "images", ()):
        if not (os.path.exists(name) or glob(name)):  # os.path knows what to do with a name that is too long
            raise HalflabelError(f"no pictures at {name!r}: give a folder, a glob or files{nearest_file(name)}")
    for recipe in getattr(options, "recipes", ()):
        find_recipe(split_entrant(recipe)[0])
    return None


def _check_train(options: argparse.Namespace) -> None:
    """Read the recipe and what is typed, and find its data."""
    if options.data and any(word.split("=")[0] == "--data" for word in options.overrides):
        raise HalflabelError("the data are given twice: behind the recipe, and with --data")
    if options.data:
        options.overrides = ["--data", *options.data, *options.overrides]
    recipe, from_file, typed, own = read_keys(options.recipe, options.overrides)
    options.folder = str({"output_dir": f"outputs/{recipe.stem}", **from_file, **typed}["output_dir"])
    for source in () if own.get("streaming") else own["data"]:
        path = source if isinstance(source, str) else source.get("path")
        if isinstance(path, str) and not (isinstance(source, dict) and source.get("format")):
            try:
                check_data_place(path)
            except HalflabelError as error:
                advice = "" if "data" in typed else f": give your own, halflabel train {options.recipe} DATA"
                raise HalflabelError(f"{error}{advice}") from error


_KEPT = {
    "advise": "the features that were computed are kept",
    "compare": "the runs that are finished and the features are kept",
    "push": "files are pushed all together or not at all",
    "demo": "the page is closed",
}


def what_is_kept(options: argparse.Namespace, given: Sequence[str]) -> str:
    """Say what a command that was stopped leaves, and which command goes on with it.

    Args:
        options: As parsed.
        given: The words behind `halflabel`.
    """
    kept, words, more = _KEPT.get(options.command, "nothing is kept"), list(given), ""
    if options.command == "train":
        folder = getattr(options, "folder", "")  # none where the recipe was not read yet
        kept = "no checkpoint is there yet"
        for place in (folder, os.path.join(folder, "probe")):
            steps = [int(name[11:]) for name in glob("checkpoint-*", root_dir=place) if name[11:].isdecimal()]
            if steps:
                kept, more = f"{os.path.join(place, f'checkpoint-{max(steps)}')} is kept", "--resume_from_checkpoint"
                break
    elif options.command == "predict":
        folder = options.output if options.output.endswith("/") else f"{options.output}.parts"
        if os.path.isdir(folder):
            kept, more = f"{len(glob('part-*', root_dir=folder))} finished parts are kept in {folder}", "--resume"
    if more and not any(word.split("=")[0] == more for word in words):
        words.append(more)
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")  # of torchrun: as many go on, or a step would be another
    program = "halflabel" if processes == "1" else f"torchrun --nproc_per_node {processes} -m halflabel_cli"
    return f"{kept}; go on with: {program} {shlex.join(words)}"


def _recipes(options: argparse.Namespace) -> None:
    """List the shipped recipes, each with the first line of its header; or print one; or list the keys of recipes."""
    if options.keys:
        print("\n".join(describe_keys()))
    elif options.name is not None:
        print(find_recipe(options.name).read_text(encoding="utf-8"), end="")
    else:
        for name, path in shipped_recipes().items():
            first = path.read_text(encoding="utf-8").splitlines()[0]
            print(f"{name:24} {first.lstrip('# ')}")


def describe_keys() -> list[str]:
    """Return, by group, a line for each of a recipe's own keys, and lines for the Trainer's."""
    lines = []
    for name, group in GROUPS.items():
        lines.append(f"{name}:")
        for key in fields(group):
            words = f": {', '.join(choices(key.name))}" if choices(key.name) else ""
            default = "" if key.default in (None, ()) else f" (default: {_text(key.default)})"
            lines.append(f"  {key.name:27} {key.metadata['help']}{words}{default}")
    short = ", ".join(f"{name} is {key}" for name, key in SHORT.items())
    defaults = ", ".join(f"{name}: {_text(value)}" for name, value in TRAINING_DEFAULTS.items())
    return [
        *lines,
        f"and every field of transformers.TrainingArguments, as output_dir, seed; {short};",
        f"where other defaults than its own are {defaults}",
    ]


def _text(value: Any) -> str:  # noqa: ANN401 - a default
    return str(value).lower() if isinstance(value, bool) else str(value)


def _env(options: argparse.Namespace) -> None:
    """Print the versions that a bug report needs."""
    rows = {name: version(name) for name in LIBRARIES}
    rows |= {"python": platform.python_version(), "platform": platform.platform(), "cores": str(os.cpu_count())}
    tool = shutil.which("nvidia-smi")
    asked = [tool or "", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout if tool else ""
    rows["graphics cards"] = ", ".join(found.split("\n")[:-1]) or "none found by nvidia-smi"
    for name, value in rows.items():
        print(f"{name}: {value}")


_ANSWERS = {"recipes": _recipes, "env": _env}


def read_source(given: str) -> Any:  # noqa: ANN401 - a path or a mapping
    """Return a source as it is typed, or the mapping that it is in JSON."""
    if not given.lstrip().startswith("{"):
        return given
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise HalflabelError(f"source {given!r} is not JSON: {error}") from error


def check_outputs(file: str | Path | None, folder: Path | None = None) -> None:
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
