import base64
import functools
import http.server
import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import halflabel
from halflabel import DecisionRule, HalflabelError, MultiLabelImageClassificationPipeline
from halflabel.model.decisions import NEVER
from halflabel.use.predict import predict

TASK = "multi-label-image-classification"
NAMES = ["red", "blue", "green", "grey"]
RULE = DecisionRule.plain(4).to_dict() | {
    "scale": [3.0, 0.5, 1.0, 2.0], "shift": [1.0, -1.0, 0.0, 2.0], "thresholds": [0.0, 0.9, NEVER, 0.3],
    "calibration": "platt", "objective": "precision>=0.9",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with a decision rule, its processor, and photographs that a draft decodes at half their size."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    model = halflabel.TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", NAMES, weights=None, decisions=RULE
    )
    torch.nn.init.normal_(model.head.linear.weight, std=0.5)
    model.save_pretrained(folder)
    halflabel.TimmMultiLabelImageProcessor.from_backbone(model.backbone).save_pretrained(folder)
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.jpg"):
        Image.fromarray(rng.integers(0, 255, (500, 700, 3), dtype=np.uint8)).save(folder / name)
    Image.new("RGBA", (300, 300), (255, 0, 0, 90)).save(folder / "d.png")
    return folder


@pytest.fixture(scope="module")
def answer(folder):
    return pipeline(TASK, str(folder))


def by_label(answers):
    return {one["label"]: (pytest.approx(one["score"], rel=1e-4, abs=1e-9), one["decision"]) for one in answers}


def test_the_task_is_registered_and_makes_our_pipeline(answer):
    assert isinstance(answer, MultiLabelImageClassificationPipeline)


def test_scores_and_decisions_are_those_of_predict(answer, folder):
    files = sorted([*folder.glob("*.jpg"), *folder.glob("*.png")])
    frame = predict(folder, files)
    for row, answers in zip(frame.to_dict("records"), answer([str(file) for file in files]), strict=True):
        assert by_label(answers) == {name: (row[name], name in row["answered_yes"]) for name in NAMES}
        assert [one["score"] for one in answers] == sorted((row_["score"] for row_ in answers), reverse=True)
    full = predict(folder, files[:1], fast_decode=False)
    assert by_label(answer(str(files[0]), fast_decode=False))["red"][0] == full["red"][0]


def test_without_a_rule_the_score_is_the_sigmoid_and_yes_starts_at_a_half(tiny_model):
    processor = halflabel.TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    answer = pipeline(TASK, model=tiny_model.train(), image_processor=processor)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (80, 80, 3), dtype=np.uint8))
    answers = by_label(answer(picture))
    with torch.no_grad():
        scores = tiny_model.eval()(processor(picture)["pixel_values"]).logits[0].sigmoid().tolist()
    assert answers == {name: (score, score >= 0.5) for name, score in zip(("red", "blue"), scores, strict=True)}


def test_every_kind_of_image_gives_the_same_answers(answer, folder):
    path = folder / "b.png"
    expected = by_label(answer(str(path)))
    picture, content = Image.open(path), base64.b64encode(path.read_bytes()).decode()
    for image in (path, picture, np.asarray(picture), content, f"data:image/png;base64,{content}"):
        assert by_label(answer(image)) == expected
    assert by_label(answer(base64.b64encode((folder / "d.png").read_bytes()).decode())) == by_label(
        answer(folder / "d.png")
    )


def test_a_url_is_fetched(answer, folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            assert by_label(answer(f"{base}/a.jpg", timeout=10)) == by_label(answer(str(folder / "a.jpg")))
            with pytest.raises(HalflabelError, match="none.jpg cannot be fetched: HTTP Error 404"):
                answer(f"{base}/none.jpg")
        finally:
            server.shutdown()


def test_lists_generators_and_data_sets_with_and_without_batches(answer, folder):
    files = [str(folder / name) for name in ("a.jpg", "b.png", "c.jpg")]
    expected = [by_label(answer(file)) for file in files]
    pictures = Dataset.from_dict({"image": files}).cast_column("image", ImageFeature())
    for batch_size in (1, 2):
        assert [by_label(one) for one in answer(files, batch_size=batch_size)] == expected
        assert [by_label(one) for one in answer((file for file in files), batch_size=batch_size)] == expected
        assert len(list(answer(KeyDataset(pictures, "image"), batch_size=batch_size))) == 3
    full = [by_label(answer(file, fast_decode=False)) for file in files]
    assert [by_label(one) for one in answer(KeyDataset(pictures, "image"), batch_size=2)] == full


def test_top_k_and_yes_only(answer, folder):
    path = str(folder / "b.png")
    everything = answer(path)
    assert len(everything) == 4
    assert answer(path, top_k=2) == everything[:2]
    assert answer(path, yes_only=True) == [one for one in everything if one["decision"]]
    decisions = {one["label"]: one["decision"] for one in everything}
    assert (decisions["red"], decisions["green"]) == (True, False)  # thresholds 0 and never
    assert pipeline(TASK, str(folder), top_k=1)(path) == everything[:1]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere/a.jpg", "image 'nowhere/a.jpg' is neither a file nor a URL nor a picture in base64"),
        ("QUJD", "'QUJD' is neither"),
        ("http://127.0.0.1:9/a.jpg", "image http://127.0.0.1:9/a.jpg cannot be fetched"),
        (np.zeros((8, 8, 3)), "float64 is not supported"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_clear_line(answer, image, message):
    with pytest.raises(HalflabelError, match=message) as error:
        answer(image)
    assert len(str(error.value).splitlines()) == 1


def test_wrong_arguments_and_models_are_named(answer, folder):
    with pytest.raises(HalflabelError, match="top_k is 0"):
        answer(str(folder / "a.jpg"), top_k=0)
    other = ResNetForImageClassification(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
    with pytest.raises(HalflabelError, match="needs a model of halflabel, not a 'resnet' model"):
        pipeline(TASK, model=other, image_processor=answer.image_processor)


def test_the_pipeline_travels_with_the_model(folder, tmp_path):
    """A pipeline saved with the model's code answers where halflabel is not installed, by the same rule."""
    pipeline(TASK, str(folder)).save_pretrained(tmp_path)
    code = (
        "import sys, json\n"
        "sys.modules['halflabel'] = None\n"
        "from transformers import pipeline\n"
        f"answer = pipeline('{TASK}', sys.argv[1], trust_remote_code=True)\n"
        "print(json.dumps(answer(sys.argv[2])))\n"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(folder / "a.jpg")],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert by_label(json.loads(run.stdout)) == by_label(pipeline(TASK, str(folder))(str(folder / "a.jpg")))


def test_rows_of_data_sets_and_arrays_of_any_form_are_answered(folder):
    answer, path = pipeline(TASK, str(folder)), folder / "a.jpg"
    expected = by_label(answer(str(path)))
    content = path.read_bytes()
    assert by_label(answer({"bytes": content, "path": None})) == expected
    assert by_label(answer(content)) == expected
    assert [by_label(one) for one in answer([{"bytes": content}, {"path": str(path)}])] == [expected, expected]
    grey = np.asarray(Image.open(path).convert("L"))
    assert by_label(answer(grey)) == by_label(answer(Image.fromarray(grey)))
    with pytest.raises(HalflabelError, match="an array of several pictures is given as one"):
        answer(np.zeros((2, 60, 50, 3), np.uint8))
