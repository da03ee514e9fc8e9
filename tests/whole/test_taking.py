import json

import numpy as np
import pytest
import torch
from hub_client import HubClient
from PIL import Image

import halflabel

RULE = halflabel.DecisionRule.plain(3).to_dict() | {
    "scale": [3.0, 0.5, 1.0], "shift": [1.0, -1.0, 0.0], "thresholds": [0.0, 0.9, 0.3],
    "calibration": "platt", "objective": "precision>=0.9",
}  # fmt: skip
PREPARE = """
import builtins
import json
import torch
from PIL import Image
asked = []
builtins.input = lambda text="": asked.append(text) or "n"
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
def logits(name, **keys):
    model = AutoModelForImageClassification.from_pretrained(name, **keys)
    processor = AutoImageProcessor.from_pretrained(name, **keys)
    with torch.inference_mode():
        found = model(**processor(Image.open(picture))).logits[0].double().tolist()
    return dict(zip(model.config.id2label.values(), found, strict=True))
"""


def load(process, name, **keys):
    """Return what a process that takes a model sees of it: labels and logits."""
    given = "".join(f", {key}={value!r}" for key, value in keys.items())
    return process.python(f"answer = logits(name{given})", name=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with a decision rule and its processor, and a picture beside them."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("taken") / "model"
    model = halflabel.TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", ["red", "blue", "green"], weights=None, decisions=RULE
    )
    torch.nn.init.normal_(model.head.linear.weight, std=0.5)
    model.save_pretrained(folder)
    halflabel.TimmMultiLabelImageProcessor.from_backbone(model.backbone).save_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder.parent / "a.png")
    return folder


@pytest.fixture(scope="module")
def pushed(hub, client, folder):
    """The model's name on the Hub, the labels renamed in a second commit, and the first commit."""
    assert client.halflabel("push", folder, "alice/taken")[0] == 0
    first = hub.storage.repository("models", "alice/taken").resolve("main")
    code = (
        "import halflabel\nfrom transformers import AutoModelForImageClassification\n"
        "model = AutoModelForImageClassification.from_pretrained(folder)\n"
        "model.config.id2label = {0: 'rouge', 1: 'bleu', 2: 'vert'}\n"
        "model.push_to_hub('alice/taken')"
    )
    assert client.python(code, folder=folder) is None
    client.python(PREPARE, picture=folder.parent / "a.png")
    return "alice/taken", first


@pytest.fixture(scope="module")
def stranger(hub, folder, tmp_path_factory):
    """A process in which halflabel cannot be imported."""
    process = HubClient(hub, tmp_path_factory.mktemp("stranger"), without_halflabel=True)
    process.python(PREPARE, picture=folder.parent / "a.png")
    yield process
    process.stop()


def test_what_is_pulled_scores_to_the_last_bit_as_what_was_pushed(client, pushed, folder):
    name, first = pushed
    before = load(client, folder)
    assert list(before) == ["red", "blue", "green"]
    assert load(client, name, revision=first) == before
    assert list(load(client, name).items()) == list(zip(["rouge", "bleu", "vert"], before.values(), strict=True))


def test_without_halflabel_the_code_that_travelled_gives_the_same_bits(client, stranger, pushed):
    name, first = pushed
    assert stranger.python("import halflabel").startswith("ModuleNotFoundError")
    assert "trust_remote_code=True" in load(stranger, name, revision=first, trust_remote_code=False)
    assert load(stranger, name, revision=first, trust_remote_code=True) == load(client, name, revision=first)
    assert list(load(stranger, name, trust_remote_code=True)) == ["rouge", "bleu", "vert"]
    assert stranger.python("import sys\nanswer = [name for name in sys.modules if name.startswith('halflabel.')]") == []


def test_the_stock_pipeline_gives_the_sigmoid_with_and_without_halflabel(client, stranger, pushed):
    name, _ = pushed
    code = "answer = pipeline('image-classification', model=name, top_k=None{})(str(picture))"
    expected = {label: 1 / (1 + np.exp(-logit)) for label, logit in load(client, name).items()}
    assert sum(expected.values()) != pytest.approx(1)
    for process, keys in ((client, ""), (stranger, ", trust_remote_code=True")):
        answers = process.python(code.format(keys), name=name)
        assert {one["label"]: one["score"] for one in answers} == pytest.approx(expected, rel=1e-5)
        assert process.python("answer = asked") == []  # whether to run code


def test_halflabels_own_task_answers_by_the_stored_thresholds(client, pushed, folder):
    name, first = pushed
    code = "answer = pipeline('multi-label-image-classification', model=name, revision=revision)(str(picture))"
    answers = {one["label"]: one for one in client.python(code, name=name, revision=first)}
    for label, logit in load(client, name, revision=first).items():
        i = ["red", "blue", "green"].index(label)
        score = 1 / (1 + np.exp(-(RULE["scale"][i] * logit + RULE["shift"][i])))
        assert answers[label]["score"] == pytest.approx(score, rel=1e-6)
        assert answers[label]["decision"] == (score >= RULE["thresholds"][i])


def test_a_model_in_the_cache_loads_without_the_hub_and_another_is_told(hub, client, pushed, folder):
    name, _ = pushed
    online = load(client, name)
    process = HubClient(hub, client.home, offline=True)
    asked = len(hub.requests)
    try:
        process.python("import halflabel\n" + PREPARE, picture=folder.parent / "a.png")
        assert load(process, name) == online
        for command in (["predict", "alice/other", folder.parent / "a.png", "--output", folder.parent / "s.csv"],
                        ["push", folder, "alice/other"]):  # fmt: skip
            code, _, err = process.halflabel(*command)
            assert code == 2
            assert "HF_HUB_OFFLINE forbids to ask the Hub" in err.splitlines()[-1]
        assert len(hub.requests) == asked
    finally:
        process.stop()


def test_a_download_that_stumbles_is_tried_again(hub, client, pushed):
    name, first = pushed
    code = "import shutil, huggingface_hub\nshutil.rmtree(huggingface_hub.constants.HF_HUB_CACHE)"
    assert client.python(code) is None
    with hub.fault("HEAD", "/resolve/", status=503, times=2) as fault:
        assert list(load(client, name, revision=first)) == ["red", "blue", "green"]
        assert fault["left"] == 0


def refusal(client, name, folder, token="hf_alice"):
    """Return the line with which `halflabel predict` refuses a model."""
    code, _, err = client.halflabel(
        "predict", name, folder.parent / "a.png", "--output", folder.parent / "s.csv", token=token
    )
    assert code == 2
    assert len([line for line in err.splitlines() if line.startswith("halflabel: ")]) == 1
    return err.splitlines()[-1].removeprefix("halflabel: error: ")


def test_models_that_may_not_be_read_are_one_line(hub, client, pushed, folder):
    hub.put("alice/gated", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.storage.repository("models", "alice/gated").gated = "manual"
    name = "there is no such folder, and from the Hub: "
    assert refusal(client, "alice/gated", folder, "hf_bob") == (
        f"model 'alice/gated' cannot be loaded: {name}access to it is gated: ask for it on its page at the Hub, then "
        "log in with `hf auth login`, or set HF_TOKEN"
    )
    assert f"{name}there is no such repository, or this token may not see it" in refusal(client, "alice/none", folder)
    assert f"{name}the Hub does not accept the token" in refusal(client, "alice/gated", folder, "hf_wrong")
    with hub.fault("HEAD|GET", "alice/unseen"):
        assert f"{name}the Hub cannot be reached at {hub.url}" in refusal(client, "alice/unseen", folder)


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_models_that_may_not_be_loaded_are_one_line(hub, client, folder, tmp_path, place):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = files.pop("model.safetensors")

    def message(name, files):
        (tmp_path / name).mkdir()
        for path, content in files.items():
            (tmp_path / name / path).write_bytes(content)
        hub.put(f"alice/{name}", files)
        model = f"alice/{name}" if place == "hub" else str(tmp_path / name)
        told = refusal(client, model, folder)
        code = "import halflabel\nfrom transformers import AutoModelForImageClassification as Auto\n"
        error = client.python(code + "answer = Auto.from_pretrained(name) and None", name=model)
        assert error == f"HalflabelError: {told}"  # the same in Python
        return told.replace(model, "MODEL")

    assert message(f"{place}-bare", files) == "model 'MODEL' has no model.safetensors"
    assert message(f"{place}-pickled", {**files, "pytorch_model.bin": b"cos\nsystem\n(S'true'\ntR."}) == (
        "model 'MODEL' has no model.safetensors, only pytorch_model.bin: a pickle can run any code when it is read, "
        "so none is"
    )
    newer = {**json.loads(files["config.json"]), "halflabel_version": "7.3.1", "a_key_of_tomorrow": 1}
    files |= {"model.safetensors": weights, "config.json": json.dumps(newer).encode()}
    assert message(f"{place}-newer", files) == (
        f"the model was saved by halflabel 7.3.1, and this is halflabel {halflabel.__version__}: "
        "pip install -U halflabel"
    )


def test_a_model_of_other_labels_than_the_data_is_one_line(client, pushed, folder, colour_table):
    colour_table.write_text(colour_table.read_text().replace("red,blue", "rot,blau"))
    for command in (["evaluate"], ["calibrate"], ["review", "--output", folder.parent / "errors"]):
        code, _, err = client.halflabel(command[0], folder, "--data", colour_table, "--split", "test", *command[1:])
        assert code == 2
        line = err.splitlines()[-1]
        assert line.startswith(
            f"halflabel: error: the data have no label 'red', 'blue', 'green', which {folder} answers"
        )
