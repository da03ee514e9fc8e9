import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from halflabel import HalflabelError
from halflabel.model.labels import LabelCounts
from halflabel.share.card_files import is_rendered, render_folder, save_card_data, write_card
from halflabel.share.trained import train
from halflabel.training.keys import DEFAULTS, shipped_recipes
from halflabel.training.recipe import parse_recipe
from halflabel_cli import main

ROOT = Path(__file__).parents[2]
MODEL_CARDS = sorted(path for path in (ROOT / "model_cards").iterdir() if path.is_dir())
KEYS = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "optim": "sgd",
    "num_train_epochs": 4, "learning_rate": 0.05, "per_device_train_batch_size": 8, "use_cpu": True,
    "disable_tqdm": True, "report_to": "none", "decide": "f1", "plots": True, "output_dir": "outputs/colours",
    "data": "labels.csv",
}  # fmt: skip
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("halflabel", "halflabel_cli"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The place in which somebody trained, with pictures, a table, a recipe and the outputs."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(7)
    answers = rng.integers(0, 2, (48, 2))
    lines = ["file_name,red,blue,split"]
    for i, (red, blue) in enumerate(answers):
        pixels = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
        pixels[:, :24, 0] += np.uint8(190 * red)
        pixels[:, 24:, 2] += np.uint8(190 * blue)
        Image.fromarray(pixels).save(place / f"{i:03d}.png")
        shown = [str(red), "" if i % 5 == 0 and i < 32 else str(blue)]
        lines.append(f"{i:03d}.png,{','.join(shown)},{'test' if i >= 32 else 'train'}")
    (place / "labels.csv").write_text("\n".join(lines) + "\n")
    (place / "colours.yaml").write_text(yaml.safe_dump(KEYS))
    before = Path.cwd()
    os.chdir(place)
    try:
        train(parse_recipe("colours.yaml"))
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy of it, as working directory."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def folder(place):
    return place / "outputs" / "colours"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_card_of_a_run_is_rendered_again_byte_for_byte_also_from_a_copy_elsewhere(folder, tmp_path, monkeypatch):
    card = (folder / "README.md").read_bytes()
    assert b"mAP **" in card
    assert b"](examples.png)" in card
    assert card.count(b"](plots/") == 6
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoint-*", "*.safetensors", "README.md"))
    monkeypatch.chdir(tmp_path)
    assert main(["card", "elsewhere"]) == 0
    assert (copy / "README.md").read_bytes() == card
    assert render_folder(copy).encode() == card


def test_the_card_counts_what_the_training_split_knew(folder):
    data = json.loads((folder / "card.json").read_text())["training"]
    rows = [line.split("|") for line in (folder / "README.md").read_text().splitlines()]
    told = {row[1].strip(): (int(row[2]), int(row[3])) for row in rows if len(row) > 5 and row[2].strip().isdecimal()}
    assert told == {
        name: (answers["positive"] + answers["negative"], answers["positive"])
        for name, answers in data["labels"].items()
    }
    # 32 training pictures less 5 for validation; all know red, and a fifth does not know blue
    assert data["images"] == told["red"][0] == 27
    assert 27 - 7 <= told["blue"][0] < 27


def test_a_repository_is_named_and_remembered(folder, capsys):
    assert main(["card", str(folder), "--repository", "me/colours"]) == 0
    card = (folder / "README.md").read_text()
    assert 'pipeline("multi-label-image-classification", "me/colours")' in card
    assert "outputs/colours" not in card
    assert ModelCard(card).data.model_name == "colours"
    write_card(folder)
    assert (folder / "README.md").read_text() == card
    assert str(folder) in capsys.readouterr().out


def test_a_card_that_somebody_changed_is_told_from_a_rendered_one(folder):
    assert is_rendered(folder)
    card = folder / "README.md"
    card.write_text(card.read_text().replace("## Use", "## How to use it"))
    assert not is_rendered(folder)
    assert not is_rendered(folder / "nowhere")
    (folder / "card.json").unlink()
    assert not is_rendered(folder)


def measured(folder):
    return [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("| red")][0].split("|")


def test_after_calibrate_the_card_tells_the_new_thresholds_until_they_are_measured(folder, capsys):
    before, metrics = measured(folder), (folder / "metrics.json").read_bytes()
    source = [str(folder), "--data", "labels.csv"]
    assert main(["calibrate", *source, "--split", "train", "--objective", "recall>=0.5"]) == 0
    assert "told in its README.md" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert "thresholds fitted for `recall>=0.5`" in card
    assert "fitted anew after this measurement" in card
    after, rule = measured(folder), json.loads((folder / "config.json").read_text())["decisions"]
    assert after[1:8] == before[1:8]  # counts, AP and AUROC
    assert float(after[8]) == pytest.approx(rule["thresholds"][0], rel=5e-3)
    assert len(after) == len(before) - 3  # no precision, recall and ECE of the earlier thresholds
    assert (folder / "metrics.json").read_bytes() == metrics
    assert is_rendered(folder)
    assert main(["evaluate", *source, "--output", str(folder / "metrics.json")]) == 0
    write_card(folder)
    row = json.loads((folder / "metrics.json").read_text())["labels"]["red"]
    assert [float(cell) for cell in measured(folder)[9:12]] == pytest.approx(
        [row["precision"], row["recall"], row["ECE"]], abs=5e-4
    )


def test_calibrate_leaves_a_card_that_somebody_changed_and_says_so(folder, capsys):
    (folder / "README.md").write_text("# Mine\n")
    assert main(["calibrate", str(folder), "--data", "labels.csv", "--split", "train"]) == 0
    assert "may tell of earlier ones" in capsys.readouterr().out
    assert (folder / "README.md").read_text() == "# Mine\n"


@pytest.mark.parametrize("name", ["card.json", "metrics.json", "recipe.yaml", "config.json"])
def test_a_file_that_is_missing_is_named_in_one_line(folder, name, capsys):
    (folder / name).unlink()
    before = contents(folder)
    assert main(["card", str(folder), "--repository", "me/x"]) == 2
    error = capsys.readouterr().err
    assert f"holds no {name}" in error
    assert len(error.strip().splitlines()) == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("card.json", "{", "card.json: cannot be read as JSON"),
        ("card.json", "[]", "card.json is not a mapping"),
        ("card.json", '{"name": "x"}', "is not as `halflabel train` wrote it: 'training'"),
        ("recipe.yaml", "a: [", "recipe.yaml: cannot be read as YAML"),
        ("recipe.yaml", "seed: 0", "is not as `halflabel train` wrote it"),
        ("metrics.json", '{"split": "test", "labels": {"red": {}, "green": {}}}', "metrics.json tells of other labels"),
        (
            "metrics.json",
            '{"split": "test", "labels": {"red": {}, "blue": {}}}',
            "is not as `halflabel train` wrote it",
        ),
    ],
)
def test_files_that_cannot_be_rendered_are_named_in_one_line(folder, name, text, message, capsys):
    (folder / name).write_text(text)
    before = contents(folder)
    assert main(["card", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert contents(folder) == before


def test_a_full_disk_leaves_the_old_card(folder, monkeypatch, capsys):
    before = contents(folder)

    def full(self, *arguments, **keys):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert main(["card", str(folder), "--repository", "me/x"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert contents(folder) == before


def test_only_data_sets_of_the_hub_are_told_as_such(place):
    (place / "shards" / "train").mkdir(parents=True)
    (place / "shards" / "train" / "0.parquet").write_bytes(b"")
    data = ["me/crossings", "labels.csv", "shards/train", '{"path": "you/signs", "name": "signs"}', "street_scenes"]
    (place / "many.yaml").write_text(yaml.safe_dump({**KEYS, "data": data}))
    counts = LabelCounts(*np.zeros((4, 1), dtype=np.int64), images=1)
    save_card_data(place, "many", parse_recipe("many.yaml").data.data, counts, ("car",))
    assert json.loads((place / "card.json").read_text())["datasets"] == ["me/crossings", "you/signs"]


def run_process(place, code, without_halflabel):
    """Run code as a script of its own, and return what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "home")}
    environment["PYTHONPATH"] = "" if without_halflabel else str(ROOT / "src")
    script = (BLOCKED if without_halflabel else "") + code
    done = subprocess.run([sys.executable, "-c", script], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(printed):
    """Return label -> score and, where it is told, yes or no."""
    found = re.findall(r"^(red|blue) ([\d.]+) ?(yes|no)?$", printed, flags=re.MULTILINE)
    return {label: (float(score), decision) for label, score, decision in found}


def test_the_blocks_of_the_card_run_in_order_with_and_without_halflabel(place, folder):
    shutil.copy(place / "040.png", place / "photo.jpg")
    tokens = MarkdownIt().parse(ModelCard((folder / "README.md").read_text()).text)
    blocks = [(token.info, token.content) for token in tokens if token.type == "fence"]
    assert [kind for kind, _ in blocks] == ["python", "python", "bash", "python", "yaml"]
    command = shlex.split(blocks[2][1])
    assert command[0] == "halflabel"
    export = f"from halflabel_cli import main\nassert main({command[1:]}) == 0"
    with_package = answers(run_process(place, f"{blocks[0][1]}\n{export}", without_halflabel=False))
    printed = run_process(place, f"{blocks[1][1]}\nprint('---')\n{blocks[3][1]}", without_halflabel=True)
    alone, plain = map(answers, printed.split("---"))
    assert set(with_package) == set(plain) == {"red", "blue"}
    assert alone == with_package
    rule = json.loads((folder / "config.json").read_text())["decisions"]
    for i, label in enumerate(("red", "blue")):
        logit = np.log(plain[label][0] / (1 - plain[label][0]))
        calibrated = 1 / (1 + np.exp(-(rule["scale"][i] * logit + rule["shift"][i])))
        assert calibrated == pytest.approx(with_package[label][0], abs=0.01)  # scores are printed with three decimals


@pytest.mark.parametrize("path", MODEL_CARDS, ids=lambda path: path.name)
def test_a_shipped_card_is_rendered_from_the_data_beside_it_byte_for_byte(path):
    assert path.name in shipped_recipes()
    assert (path / "README.md").read_bytes() == render_folder(path).encode()
    assert json.loads((path / "card.json").read_text())["name"] == path.name
    for file in path.rglob("*"):
        if file.suffix in (".json", ".yaml", ".md"):
            assert file.stat().st_size < 20_000, file
            assert not re.search(r"/(home|work|root|tmp)/", file.read_text()), file
        else:
            assert file.is_dir() or file.suffix == ".png", file


@pytest.mark.parametrize("path", MODEL_CARDS, ids=lambda path: path.name)
def test_a_shipped_card_tells_of_the_recipe_as_it_is_shipped(path):
    run = yaml.safe_load((path / "recipe.yaml").read_text())
    recipe = parse_recipe(path.name)
    shipped = {key: recipe.plain()[key] for key in recipe.said - {"data", "keep_labels", "hide_seed", "ci", "plots"}}
    assert {key: (DEFAULTS | run).get(key) for key in shipped} == shipped  # a key may be younger than the run


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(HalflabelError, match="nowhere holds no recipe.yaml"):
        render_folder("nowhere")
