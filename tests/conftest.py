"""Everything runs offline and on tiny networks."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads of tiny networks must not hold the cores
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker per core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HOME"] = tempfile.mkdtemp()  # cached features of tests are not a user's

from pathlib import Path

import numpy as np
import pytest
import torch
from hub_client import HubClient
from hub_server import HubServer
from PIL import Image
from transformers.utils import logging as transformers_logging

import halflabel
from halflabel.data.images import AnnotatedImages
from halflabel.data.loading import load_images

atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
atexit.register(gc.unfreeze)  # else libraries report as leaked what the interpreter's end would have freed
transformers_logging.disable_progress_bar()
ROAD_SIGNS = Path(__file__).parents[2] / "shared" / "data" / "road_signs" / "labels.csv"


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """Every training ends with `gc.collect()`, which would look through all that was imported each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def road_signs() -> Path:
    if not ROAD_SIGNS.is_file():
        pytest.skip("needs the road sign photographs, which are not part of a clone")
    return ROAD_SIGNS


def write_pictures(folder: Path, count: int, size: int = 48) -> np.ndarray:
    """Write pictures whose left half is red or not and whose right half is blue or not; return these answers."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    answers = rng.integers(0, 2, (count, 2))
    for i, (red, blue) in enumerate(answers):
        pixels = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
        pixels[:, : size // 2, 0] += np.uint8(190 * red)
        pixels[:, size // 2 :, 2] += np.uint8(190 * blue)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return answers


@pytest.fixture
def saved_model(tiny_model, tmp_path) -> str:
    """The folder of a saved model with labels red and blue, and its image processor."""
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder)
    halflabel.TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def colour_table(tmp_path) -> Path:
    """48 pictures, labels red and blue, a fifth of the training entries unknown, 16 test pictures."""
    answers = write_pictures(tmp_path, 48)
    lines = ["file_name,red,blue,split"]
    for i, (red, blue) in enumerate(answers):
        split = "test" if i >= 32 else "train"
        shown = ["" if split == "train" and (i + k) % 5 == 0 else str(v) for k, v in enumerate((red, blue))]
        lines.append(f"{i:03d}.png,{shown[0]},{shown[1]},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "labels.csv"


@pytest.fixture(scope="session")
def known_colours(tmp_path_factory) -> Path:
    """90 pictures, labels red and blue, all known; 30 of them are test pictures."""
    folder = tmp_path_factory.mktemp("colours")
    answers = write_pictures(folder, 90)
    lines = [f"{i:03d}.png,{red},{blue},{'test' if i >= 60 else 'train'}" for i, (red, blue) in enumerate(answers)]
    (folder / "labels.csv").write_text("\n".join(["file_name,red,blue,split", *lines]) + "\n")
    return folder / "labels.csv"


@pytest.fixture(scope="session")
def uncertain_colours(known_colours) -> Path:
    """The same with a third of the training answers unknown, and a tenth `u`: nobody could tell."""
    head, *lines = known_colours.read_text().splitlines()
    rng = np.random.default_rng(3)
    for i, line in enumerate(lines[:60]):
        name, *answers, split = line.split(",")
        shown = [rng.choice([answer, "", "u"], p=[0.57, 0.33, 0.1]) for answer in answers]
        lines[i] = ",".join([name, *shown, split])
    path = known_colours.with_name("uncertain.csv")
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


@pytest.fixture
def colour_images(colour_table) -> AnnotatedImages:
    return load_images(colour_table)


@pytest.fixture
def tiny_model() -> halflabel.TimmMultiLabelForImageClassification:
    return halflabel.TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["red", "blue"], weights=None)


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A Hub on this machine with the users alice and bob, whose tokens are hf_alice and hf_bob."""
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def client(hub, tmp_path_factory):
    """A process with halflabel that talks to this Hub."""
    process = HubClient(hub, tmp_path_factory.mktemp("home"))
    yield process
    process.stop()
