import shlex
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import halflabel

TRAINING = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "use_cpu": True,
    "num_train_epochs": 1, "disable_tqdm": True, "report_to": "none",
}  # fmt: skip


def save(folder):
    """Write a model with its processor, and return the folder."""
    model = halflabel.TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["red", "blue"], weights=None)
    torch.nn.init.normal_(model.head.linear.weight)
    model.save_pretrained(folder)
    halflabel.TimmMultiLabelImageProcessor.from_backbone(model.backbone).save_pretrained(folder)
    return folder


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def saved(tmp_path, request):
    torch.manual_seed(zlib.crc32(request.node.name.encode()))  # a Hub asks for no file that it has from another test
    return save(tmp_path / "model")


def test_a_push_is_one_commit_of_what_a_run_wrote_and_of_nothing_else(hub, client, saved):
    (saved / "checkpoint-3").mkdir()
    (saved / "checkpoint-3" / "model.safetensors").write_bytes(b"x")
    (saved / "plots").mkdir()
    for name in ("training_args.bin", "optimizer.pt", ".env", "notes.txt", "passport.png", "keys.json", "plots/me.png"):
        (saved / name).write_bytes(b"secret")
    (saved / "plots" / "coverage.png").write_bytes(b"picture")
    for link, target in (("leak.json", "/etc/passwd"), ("metrics.json", "/etc/passwd"), ("examples.png", ".env")):
        (saved / link).symlink_to(target)
    before = snapshot(saved)
    code, out, err = client.halflabel("push", saved, "alice/plain", "--message", "The first one")
    told = [
        f"{saved / name} is no file of its own (a link?) and is not pushed" for name in ("examples.png", "metrics.json")
    ]
    assert (code, sorted(err.splitlines())) == (0, told)
    assert out == f"pushed to {hub.url}/alice/plain\n"
    assert hub.commits("alice/plain") == ["The first one", "initial commit"]
    files = hub.files("alice/plain")
    assert files.pop(".gitattributes")
    code_files = [path.name for path in saved.glob("*.py")]
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "plots/coverage.png", *code_files}
    assert len(code_files) > 5
    assert files == {name: before[Path(name)] for name in names}
    assert snapshot(saved) == before


def error_of(client, *arguments, **keys):
    """Return the one line with which a command refuses."""
    code, _, err = client.halflabel(*arguments, **keys)
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("halflabel: error: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("halflabel: error: ")


def test_a_second_push_adds_a_commit_and_a_branch_is_made_where_there_is_none(hub, client, saved):
    assert client.halflabel("push", saved, "alice/again")[0] == 0
    first = hub.files("alice/again")["config.json"]
    halflabel.TimmMultiLabelConfig(backbone="test_resnet", label_names=["x", "y"]).save_pretrained(saved)
    _, out, _ = client.halflabel("push", saved, "alice/again", "--revision", "renamed")
    assert out == f"pushed to {hub.url}/alice/again/tree/renamed\n"
    assert len(hub.commits("alice/again")) == 2
    assert len(hub.commits("alice/again", "renamed")) == 3
    assert hub.files("alice/again")["config.json"] == first != hub.files("alice/again", "renamed")["config.json"]


def test_a_private_model_is_seen_by_its_owner_only_and_never_lands_in_a_public_repository(hub, client, saved, tmp_path):
    assert client.halflabel("push", saved, "alice/secret", "--private")[0] == 0
    assert hub.storage.repository("models", "alice/secret").private
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = ["predict", "alice/secret", tmp_path / "a.png", "--output", tmp_path / "s.csv"]
    for token in ("hf_bob", None):
        assert "there is no such repository, or this token may not see it" in error_of(client, *command, token=token)
    assert client.halflabel(*command)[0] == 0
    assert client.halflabel("push", saved, "alice/public")[0] == 0
    message = error_of(client, "push", saved, "alice/public", "--private")
    assert message.startswith("'alice/public' is there already and public: take another name, or make it private")
    assert len(hub.commits("alice/public")) == 2


@pytest.mark.parametrize(
    ("repository", "token", "reason"),
    [
        ("alice/x", "hf_wrong", "the Hub does not accept the token"),
        ("alice/x", None, "the Hub asks for a token: log in with `hf auth login`, or set HF_TOKEN"),
        ("bob/x", "hf_alice", "the token does not allow it (You don't have the rights to create a model"),
        ("bob/taken", "hf_alice", "the token does not allow it (alice may not write to bob/taken): take a name"),
        ("a/b/c", "hf_alice", "Repo id must be in the form"),
    ],
)  # fmt: skip
def test_a_push_that_the_hub_refuses_is_one_line_and_loses_nothing(hub, client, saved, repository, token, reason):
    if repository == "bob/taken":
        assert client.halflabel("push", saved, repository, token="hf_bob")[0] == 0
    before = snapshot(saved)
    message = error_of(client, "push", saved, repository, token=token)
    assert message.startswith(f"'{repository}' ")
    assert reason in message
    assert message.endswith(f"; {saved} is whole, go on with: halflabel push {saved} {repository}")
    assert snapshot(saved) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/commit/main"),
        pytest.param("PUT", "/upload/", marks=pytest.mark.slow, id="weights"),  # the client tries for half a minute
    ],
)
def test_a_connection_cut_in_mid_upload_says_how_to_go_on_and_that_works(hub, client, saved, method, path):
    before, name = snapshot(saved), f"alice/cut-{method.lower()}"
    with hub.fault(method, path) as fault:
        message = error_of(client, "push", saved, name)
        assert fault["left"] < 10**6
    assert f"{name!r} was not pushed: the Hub cannot be reached at {hub.url}" in message
    assert snapshot(saved) == before
    assert hub.commits(name) == ["initial commit"]
    command = shlex.split(message.split("go on with: ")[1])
    assert client.halflabel(*command[1:])[0] == 0
    for file in ("config.json", "model.safetensors"):
        assert hub.files(name)[file] == (saved / file).read_bytes()


def test_the_hubs_own_check_takes_every_shipped_card(hub, client):
    cards = sorted((Path(__file__).parents[2] / "model_cards").glob("*/README.md"))
    code = "from huggingface_hub import ModelCard; answer = ModelCard.load(card).validate(repo_type='model')"
    for card in cards:
        assert client.python(code, card=card) is None, card
    assert [request for request in hub.requests if "validate-yaml" in str(request)]
    broken = "from huggingface_hub import ModelCard; ModelCard('---\\ntags: [\\n---').validate(); answer = 'taken'"
    assert client.python(broken) != "taken"


def test_a_hub_that_is_down_or_faulty_is_named(hub, client, saved):
    with hub.fault("POST", "/api/repos/create"):
        assert f"cannot be pushed to: the Hub cannot be reached at {hub.url}" in error_of(
            client, "push", saved, "alice/down"
        )
    with hub.fault("POST", "/api/repos/create", status=500):
        assert "the Hub answers 500 (a fault of the server); try again later" in error_of(
            client, "push", saved, "alice/down"
        )


def test_a_folder_without_a_whole_model_is_not_pushed(hub, client, saved, tmp_path):
    asked = len(hub.requests)
    assert error_of(client, "push", tmp_path / "none", "alice/x") == f"no folder '{tmp_path / 'none'}'"
    assert error_of(client, "push", tmp_path, "alice/x").startswith(f"{tmp_path} holds no config.json of a halflabel")
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    assert error_of(client, "push", saved, "alice/x").startswith(f"{saved} holds no model.safetensors")
    assert len(hub.requests) == asked


@pytest.fixture
def recipe(colour_table, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({**TRAINING, "data": str(colour_table), "output_dir": str(tmp_path / "out")}))
    return path


def test_a_run_pushes_its_finished_folder_once(hub, client, recipe, tmp_path):
    flags = ["--push_to_hub", "--hub_model_id", "alice/run", "--hub_private_repo", "--hub_token", "hf_alice"]
    code, _, err = client.halflabel("train", recipe, *flags, token=None)
    assert code == 0, err
    assert hub.commits("alice/run") == ["Upload alice/run", "initial commit"]
    assert hub.storage.repository("models", "alice/run").private
    files, folder = hub.files("alice/run"), tmp_path / "out"
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "recipe.yaml", "metrics.json",
            "training_log.json", "examples.png", "modeling_timm_multilabel.py"} <= set(files)  # fmt: skip
    assert not [path for path in files if "checkpoint" in path or path.endswith((".bin", ".pt", ".pth"))]
    files.pop(".gitattributes")
    assert files == {path: (folder / path).read_bytes() for path in files}
    told = [*files.values(), err.encode(), *snapshot(folder).values()]
    assert not [content for content in told if b"hf_alice" in content]
    assert not {"hub_token", "push_to_hub", "hub_model_id"} & set(yaml.safe_load(files["recipe.yaml"]))
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert '"alice/run"' in card.text


def test_a_run_that_cannot_push_says_so_before_it_trains(client, recipe, tmp_path):
    flags = ["--push_to_hub", "--hub_model_id", "alice/never"]
    message = error_of(client, "train", recipe, *flags, token="hf_wrong")
    assert message.startswith("'alice/never' cannot be pushed to: the Hub does not accept the token")
    assert not (tmp_path / "out").exists()


def test_a_push_that_fails_after_training_leaves_the_run_whole(hub, client, recipe, tmp_path):
    with hub.fault("POST", "/commit/main", status=503):
        message = error_of(client, "train", recipe, "--push_to_hub", "--hub_model_id", "alice/late")
    assert message.startswith("'alice/late' was not pushed: the Hub answers 503")
    assert message.endswith(f"go on with: halflabel push {tmp_path / 'out'} alice/late")
    assert client.halflabel("push", tmp_path / "out", "alice/late")[0] == 0
    assert hub.files("alice/late")["metrics.json"] == (tmp_path / "out" / "metrics.json").read_bytes()


PUSH_BY_HAND = """
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments
import halflabel
from halflabel.data.pixels import collate
model = AutoModelForImageClassification.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder)
processor.push_to_hub("alice/direct")
model.push_to_hub("alice/direct", private=True)
arguments = TrainingArguments(output_dir=out, hub_model_id="alice/trainer", push_to_hub=True, hub_token="hf_alice",
                              max_steps=2, save_steps=1, save_strategy="steps", report_to="none", use_cpu=True,
                              disable_tqdm=True, remove_unused_columns=False)
rows = [{"pixel_values": torch.rand(3, 32, 32), "labels": torch.tensor([1.0, -100.0])}] * 4
trainer = halflabel.MultiLabelTrainer(model=model, args=arguments, train_dataset=rows, processing_class=processor)
trainer.train()
trainer.push_to_hub()
"""


def test_models_and_trainers_push_themselves_with_code_and_our_card_and_without_a_pickle(hub, client, saved, tmp_path):
    assert client.python(PUSH_BY_HAND, folder=saved, out=tmp_path / "out") is None
    for name, commits in (("alice/direct", 2), ("alice/trainer", 1)):  # model and processor; the end, not each save
        assert len(hub.commits(name)) == commits + 1
        files = hub.files(name)
        assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md",
                "modeling_timm_multilabel.py", "image_processing_timm_multilabel.py"} <= set(files)  # fmt: skip
        assert not [path for path in files if path.endswith((".bin", ".pt"))]
        card = ModelCard(files["README.md"].decode())
        assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-classification")
        assert set(card.data.tags) == {"halflabel", "timm", "multi-label"}
        assert f'pipeline("image-classification", "{name}"' in card.text
    assert not list((tmp_path / "out").rglob("training_args.bin"))
