"""The page in a real browser: a picture is dropped, answers and heat maps are read off."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import gradio
import numpy as np
import pytest
import timm
import torch
import yaml
from gradio_client import Client, handle_file
from hub_server import HubServer
from packaging.requirements import Requirement
from PIL import Image

import halflabel
from halflabel import HalflabelError
from halflabel.model.decisions import NEVER, DecisionRule
from halflabel.share import space as page_of
from halflabel.share.demo import show_heat_map, write_space
from halflabel.share.image_plots import draw_heat_map
from halflabel.use.explain import explain
from halflabel.use.inference import open_model
from halflabel_cli import main

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
NAMES = ["red", "<b>blue</b> & ${1+1} {{x}}", "never", "always"]
FILLED = """[...document.querySelectorAll('.hl-bar')].map(
    bar => bar.querySelector('.hl-fill').getBoundingClientRect().width / bar.getBoundingClientRect().width)"""
"""How much of each bar is filled, read at once: a page that is being laid out changes between two readings."""
SERVER = "import sys; from halflabel_cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose answers differ, and a picture."""
    torch.manual_seed(3)
    place = tmp_path_factory.mktemp("demo")
    model = halflabel.TimmMultiLabelForImageClassification.from_backbone("test_resnet", NAMES, weights=None).eval()
    processor = halflabel.TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    rng, side = np.random.default_rng(0), np.linspace(0, 200, 320)
    pixels = np.stack([np.tile(side, (240, 1)), rng.uniform(0, 255, (240, 320)), np.tile(side[::-1], (240, 1))], -1)
    Image.fromarray(pixels.astype(np.uint8)).save(place / "picture.jpg")
    with torch.no_grad():
        features = model.extract_features(processor(Image.open(place / "picture.jpg"))["pixel_values"])[0]
        model.head.linear.weight[:] = torch.tensor([[1.5], [-0.3], [2.0], [-1.0]]) * features / features.square().sum()
        model.head.linear.weight[:, ::3] += 0.01
    rule = {"scale": [1.0, 2.0, 1.0, 1.0], "thresholds": [0.7, 0.6, NEVER, 0.0]}
    model.config.decisions = DecisionRule.plain(4).to_dict() | rule
    model.save_pretrained(place / "model")
    processor.save_pretrained(place / "model")
    return place


@contextmanager
def running(command, **options):
    """Start a server; yield where it is, and end it as Ctrl-C does."""
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as a terminal starts it
    )  # fmt: skip
    lines = []
    try:
        for line in server.stdout:
            lines.append(line)
            found = re.match(r"open (http://127\.0\.0\.1:\d+/) in a browser", line)
            if found:
                break
        else:
            pytest.fail("".join(lines))
        yield found[1]
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.communicate(timeout=60)
        finally:
            server.kill()  # whatever keeps it from its end, it does not outlive the test
    assert server.returncode == 0


@contextmanager
def browser(requests):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(30_000)
        page.on("request", lambda request: requests.append(request.url))
        yield page
        chromium.close()


def heat_map_on(page, before=None):
    """Wait for a heat map at another address, and return both."""
    picture = page.locator("#heat_map img")
    picture.wait_for()
    page.wait_for_function("old => document.querySelector('#heat_map img')?.src != old", arg=before)
    address = picture.get_attribute("src")
    return address, np.asarray(Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB"))


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium, which is not installed")
def test_answers_and_heat_maps_in_a_browser(folder, tmp_path):
    name, requests = str(folder / "model"), []
    saved = open_model(name)
    classify = halflabel.MultiLabelImageClassificationPipeline(saved.model, image_processor=saved.processor)
    answers = classify(str(folder / "picture.jpg"))
    assert {answer["decision"] for answer in answers} == {True, False}
    words = {"red": "(yes from 0.7)", NAMES[1]: "(yes from 0.6)", "never": "(never yes)", "always": "(always yes)"}
    with running([sys.executable, "-c", SERVER, "demo", name]) as url, browser(requests) as page:
        page.goto(url)
        page.wait_for_function("document.title == 'model'")
        page.set_input_files("#picture input[type=file]", folder / "picture.jpg")
        page.locator(".hl-row").first.wait_for()
        rows = [row.inner_text().split("\n") for row in page.locator(".hl-row").all()]
        assert rows == [
            [answer["label"], f"{'yes' if answer['decision'] else 'no'} {answer['score']:.3f} {words[answer['label']]}"]
            for answer in answers
        ]
        assert page.locator(".hl-threshold").count() == 3  # none for never
        assert page.evaluate(FILLED) == pytest.approx([answer["score"] for answer in answers], abs=0.01)
        address, shown = heat_map_on(page)
        np.testing.assert_array_equal(shown, overlay(name, folder / "picture.jpg", answers[0]["label"]))
        page.locator("#label input").click()
        page.get_by_role("option", name="red").click()
        _, shown = heat_map_on(page, address)
        np.testing.assert_array_equal(shown, overlay(name, folder / "picture.jpg", "red"))
        page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert Image.open(tmp_path / "page.png").size[0] == 1200
    hosts = {request.split("/")[2] for request in requests if request.startswith("http")}
    assert hosts == {url.split("/")[2]}  # no font, script or picture from elsewhere


def overlay(name, picture, label):
    explanation = explain(name, picture, [label])
    return np.asarray(draw_heat_map(explanation.view, explanation.labels[0].heat_map))


def test_the_page_answers_as_the_pipeline_does(folder):
    saved, picture = open_model(folder / "model"), str(folder / "picture.jpg")
    expected = halflabel.MultiLabelImageClassificationPipeline(saved.model, image_processor=saved.processor)(picture)
    html, choice = page_of.answer(saved.model, saved.processor, picture)
    told = re.findall(r"<b>(yes|no)</b> ([\d.]+) ", html)
    assert told == [("yes" if one["decision"] else "no", f"{one['score']:.3f}") for one in expected]
    assert choice["choices"] == [one["label"] for one in expected]
    assert html.count("hl-threshold") == 3  # none for never
    shown, words = show_heat_map(saved, picture, "red")
    np.testing.assert_array_equal(np.asarray(shown["value"]), overlay(folder / "model", picture, "red"))
    assert "as the model sees it" in words


def test_what_cannot_be_shown_is_said_on_the_page(folder, tmp_path):
    saved, picture = open_model(folder / "model"), str(folder / "picture.jpg")
    assert "Drop a picture" in page_of.answer(saved.model, saved.processor, None)[0]
    assert show_heat_map(saved, None, None)[1] == ""
    cut = tmp_path / "<cut>.jpg"
    cut.write_bytes((folder / "picture.jpg").read_bytes()[:2000])
    assert "&lt;cut&gt;.jpg" in page_of.answer(saved.model, saved.processor, str(cut))[0]
    assert "&lt;cut&gt;.jpg" in show_heat_map(saved, str(cut), "red")[1]
    assert "unknown label" in show_heat_map(saved, picture, "green")[1]


def test_a_large_upload_is_refused_and_an_unreadable_picture_gets_its_reason(folder, tmp_path, monkeypatch):
    saved = open_model(folder / "model")
    page = page_of.build_page(saved.model, saved.processor, "model")
    monkeypatch.setattr(page, "block_thread", lambda: None)
    page_of.launch(page)
    try:
        client = Client(page.local_url, verbose=False)
        (tmp_path / "cut.png").write_bytes(b"no picture")
        answer, _ = client.predict(handle_file(str(tmp_path / "cut.png")), api_name="/lambda")
        assert "image cut.png cannot be read: it is not a picture of a known format" in answer
        with (tmp_path / "large.png").open("wb") as file:
            file.truncate(51 << 20)
        with pytest.raises(ValueError, match="exceeds the maximum file size"):
            client.predict(handle_file(str(tmp_path / "large.png")), api_name="/lambda")
    finally:
        page.close()


def test_mistakes_end_in_one_line(folder, tmp_path, capsys, monkeypatch):
    name = str(folder / "model")

    def error_of(*arguments):
        assert main(["demo", *arguments]) == 2
        err = capsys.readouterr().err.strip().splitlines()[-1]
        return err.removeprefix("halflabel: error: ")

    assert error_of(name, "--output", str(tmp_path)).startswith("--output is for the folder of a Space")
    assert error_of(name, "--space", "me/x-demo").endswith("is a folder: push it first")
    assert error_of("me/x", "--space", "not//a name").startswith("not a name of the Hub: ")
    (tmp_path / "mine.txt").touch()
    assert "is not an empty folder" in error_of("me/x", "--space", "me/x-demo", "--output", str(tmp_path))
    assert error_of(name, "--port", "70000") == (
        "the demo cannot listen on 127.0.0.1, port 70000: give another --port or --host"
    )
    monkeypatch.delitem(sys.modules, "halflabel.share.space")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert error_of(name) == "the demo needs Gradio: pip install 'halflabel[demo]'"


PUSHER = """
import sys
from huggingface_hub import HfApi
from halflabel_cli import main
HfApi().create_repo("alice/m")
HfApi().upload_folder(repo_id="alice/m", folder_path=sys.argv[1])
sys.exit(main(["demo", "alice/m", "--space", "alice/m-demo"]))
"""


ANSWER = """
import runpy, sys
from transformers import AutoImageProcessor, AutoModelForImageClassification
try:
    import halflabel.model.labels
except ModuleNotFoundError:
    space = runpy.run_path("app.py")
    model = AutoModelForImageClassification.from_pretrained(space["MODEL"], trust_remote_code=True).eval()
    processor = AutoImageProcessor.from_pretrained(space["MODEL"], trust_remote_code=True)
    print(space["answer"](model, processor, sys.argv[1])[0])
"""


@pytest.mark.slow
def test_a_pushed_space_runs_where_halflabel_is_not_installed(folder, tmp_path):
    """Pushed, taken from the Hub and started as the Hub would; its answers are those of the page here."""
    libraries = str(Path(timm.__file__).parents[1])
    hub = HubServer()
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_alice", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"),
    }  # fmt: skip
    try:
        pushed = subprocess.run(
            [sys.executable, "-c", PUSHER, str(folder / "model")], env=environment, cwd=tmp_path,
            capture_output=True, text=True,
        )  # fmt: skip
        assert pushed.returncode == 0, pushed.stderr[-3000:]
        assert pushed.stdout.strip() == f"pushed to {hub.url}/spaces/alice/m-demo"
        space = tmp_path / "space"
        for path, content in hub.files("alice/m-demo", kind="spaces").items():
            (space / path).parent.mkdir(parents=True, exist_ok=True)
            (space / path).write_bytes(content)
        check_space(space)
        environment["PYTHONPATH"] = libraries
        alone = [sys.executable, "-S"]  # which leaves an editable install of halflabel out
        picture, saved = str(folder / "picture.jpg"), open_model(folder / "model")
        told = subprocess.run(
            [*alone, "-c", ANSWER, picture], env=environment, cwd=space, capture_output=True, text=True
        )  # fmt: skip
        assert told.stdout.strip() == page_of.answer(saved.model, saved.processor, picture)[0], told.stderr[-3000:]
        with (
            running([*alone, "app.py"], env=environment, cwd=space) as url,
            urlopen(f"{url}config") as answer,
        ):
            assert json.load(answer)["title"] == "alice/m"
    finally:
        hub.stop()


def check_space(space):
    _, front, text = (space / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "title": "m-demo", "sdk": "gradio", "sdk_version": gradio.__version__, "app_file": "app.py",
        "models": ["alice/m"], "python_version": "{}.{}".format(*sys.version_info),
    }  # fmt: skip
    assert "`halflabel demo alice/m --space alice/m-demo`" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(line) for line in (space / "requirements.txt").read_text().splitlines()}
    assert needed < {Requirement(line) for line in project["dependencies"]}
    imported = set()  # by what travels
    for file in (ROOT / "src" / "halflabel" / "model").glob("*.py"):
        imported |= set(re.findall(r"^(?:from|import) (\w+)", file.read_text(), re.MULTILINE))
    packages = {"pillow" if name == "PIL" else name.replace("_", "-") for name in imported - sys.stdlib_module_names}
    assert packages <= {one.name for one in needed}


def test_a_space_is_written_without_the_hub(tmp_path):
    write_space("me/x", "me/x-demo", tmp_path / "space")
    assert {path.name for path in (tmp_path / "space").iterdir()} >= {"README.md", "app.py", "requirements.txt"}
    with pytest.raises(HalflabelError, match="is not an empty folder: give another for the Space"):
        write_space("me/x", "me/x-demo", tmp_path / "space")
