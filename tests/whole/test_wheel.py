"""A built wheel carries the recipes, the card's template and the parser, and works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from halflabel.metrics import evaluate_modules

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_what_it_carries(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"halflabel/recipes/{path.relative_to(ROOT / 'recipes')}" for path in ROOT.glob("recipes/**/*.yaml")}
    assert shipped
    assert shipped | {"halflabel/py.typed", "halflabel/share/card_template.md.jinja", "halflabel_cli.py"} <= names
    measures = {f"halflabel/metrics/evaluate_modules/{name}/{name}.py" for name in evaluate_modules.NAMES}
    assert measures <= names
    assert not any(name.startswith(("tests/", "model_cards/")) for name in names)


def test_shipped_names_work_from_the_wheel_alone(wheel, tmp_path):
    """The libraries come from this environment, halflabel only from the wheel: -S leaves the editable install out."""
    import timm

    libraries = str(Path(timm.__file__).parents[1])
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        "import sys; from halflabel_cli import main; code = main(['recipes']); import halflabel;"
        "print(halflabel.__file__); sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), libraries])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "quickstart" in done.stdout
    assert str(target) in done.stdout
