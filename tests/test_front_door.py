"""The front door: a function for each command, with its name and its arguments, imported when it is asked for."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import halflabel
from halflabel_cli import build_parser

PARSERS = build_parser()._subparsers._group_actions[0].choices
COMMANDS = sorted(PARSERS.keys() - {"recipes", "env"})
WRITTEN = {
    "evaluate": {"plots", "output"}, "calibrate": {"output"}, "review": {"output"}, "explain": {"output"},
    "advise": {"output"}, "data": {"labels_only", "plot", "output", "report"},
}  # fmt: skip
"""Options that say what a command writes of what its function returns."""
FROM_PYTHON = {
    "data": {"labels", "max_train_images", "max_test_images", "bad_images"}, "predict": {"image_folder"},
    "push": {"token"}, "train": {"image_folder"},
}  # fmt: skip
"""What only a program says; `train` takes it as a key."""
SOURCE = {"image_folder", "uncertain_values", "contradictions"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_its_function_take_the_same(name):
    function = getattr(halflabel, {"data": "load_images"}.get(name, name))
    parameters = inspect.signature(function).parameters
    named = {key: value.default for key, value in parameters.items() if value.kind != value.VAR_KEYWORD}
    options = {action.dest: action.default for action in PARSERS[name]._actions}
    options = {key: value for key, value in options.items() if key not in ("help", "quiet", "data_option")}
    source = SOURCE | {"bad_images"} & options.keys() if "source" in parameters else set()
    assert options.keys() - WRITTEN.get(name, set()) == (named.keys() | source) - FROM_PYTHON.get(name, set())
    for key in named.keys() & options.keys():
        if named[key] is not inspect.Parameter.empty and options[key] not in (None, False, []):
            assert options[key] in (named[key], list(named[key]) if isinstance(named[key], tuple) else named[key]), key


def test_its_names_are_shown_and_each_is_there():
    assert set(dir(halflabel)) >= {"load_images", "load", *(name for name in COMMANDS if name != "data")}
    for name in dir(halflabel):
        assert getattr(halflabel, name) is not None
    stub = Path(halflabel.__file__).with_suffix(".pyi").read_text()
    assert set(re.findall(r"import \w+ as (\w+)$", stub, flags=re.MULTILINE)) == set(halflabel.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        halflabel.trian  # noqa: B018


def test_importing_it_and_loading_a_model_take_nothing_that_only_training_needs():
    code = (
        "import sys, halflabel\nfrom transformers import AutoModelForImageClassification\n"
        "print(sorted({'datasets', 'pandas', 'sklearn', 'matplotlib', 'pyarrow', 'evaluate'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_from_a_frame_to_a_model_that_is_loaded_again(colour_table, tmp_path):
    frame = pd.read_csv(colour_table)
    run = halflabel.train(
        "linear_probe", data=frame, image_folder=colour_table.parent, backbone="test_resnet", weights=None,
        learning_rate=1e-2, epochs=2, output_dir=str(tmp_path / "run"), use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    assert 0 <= run.metrics["mAP"] <= 1
    assert all(Image.open(path).width > 300 for path in run.plot())
    table = run.predict(colour_table.parent)
    assert set(table["file_name"].map(lambda name: name.rsplit("/", 1)[1])) >= set(frame["file_name"])
    again = halflabel.load(run.folder)
    assert again.evaluate(colour_table)["mAP"] == pytest.approx(run.metrics["mAP"], abs=1e-6)
    assert halflabel.evaluate(run, colour_table)["OF1"] == again.evaluate(colour_table)["OF1"]
