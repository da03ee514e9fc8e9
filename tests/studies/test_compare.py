import json
import os
import tempfile

import numpy as np
import pytest
import yaml
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel import HalflabelError, LabelSpace
from halflabel.share.trained import train
from halflabel.studies.compare import FOLDS, Run, RunLog, run_all, split_images
from halflabel.studies.compare_choice import BY_AUROC, BY_RULE, choose, judge
from halflabel.studies.compare_report import render_comparison, report_comparison
from halflabel.studies.compare_runs import cut_folds, held_out_logits, train_and_score
from halflabel.studies.compare_settings import Setting, make_settings, parse_entrants
from halflabel.training.recipe import parse_recipe
from halflabel_cli import main

PROBE = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "use_cpu": True,
    "num_train_epochs": 8, "learning_rate": 0.05, "per_device_train_batch_size": 8, "optim": "sgd", "decide": "f1",
}  # fmt: skip
STANDS_STILL = "--learning_rate 1e-9"
LABELS = ("cat", "dog", "emu")


@pytest.fixture
def probe(tmp_path, colour_table):
    path = tmp_path / "probe.yaml"
    path.write_text(yaml.safe_dump({**PROBE, "data": str(colour_table)}))
    return str(path)


def entrants_of(tmp_path, colour_table, *texts):
    return parse_entrants(texts, [str(colour_table)], tmp_path / "runs")


def compare(table, tmp_path, *arguments):
    return main(["compare", str(table), "--output", str(tmp_path / "found"), *arguments])


def found(tmp_path):
    return json.loads((tmp_path / "found" / "compare.json").read_text())


def noise(images=80, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (images, labels))
    return truth + rng.normal(size=truth.shape), truth.astype(np.int8)


def hide(truth, share, seed=1):
    return np.where(np.random.default_rng(seed).random(truth.shape) < share, -100, truth).astype(np.int8)


# what is trained


def test_a_run_reaches_what_train_reaches(probe, colour_table, colour_images, tmp_path):
    one = entrants_of(tmp_path, colour_table, probe)[0]
    logits = train_and_score(one.recipe, split_images(colour_images, [Setting("any", {})], 0.2), seed=3)
    flags = ["--output_dir", str(tmp_path / "out"), "--validation_share", "0", "--report_to", "none", "--seed", "3"]
    result = train(parse_recipe(probe, [*flags, "--disable_tqdm", "true"]))
    labels = colour_images.of_split("test").labels
    expected = [result.metrics["labels"][name]["AP"] for name in ("red", "blue")]
    assert [average_precision_score(labels[:, j], logits[:, j]) for j in range(2)] == pytest.approx(expected, abs=1e-6)


def test_an_image_is_scored_by_a_model_that_did_not_see_its_answers(probe, colour_table, colour_images, tmp_path):
    recipe = entrants_of(tmp_path, colour_table, probe)[0].recipe
    images = colour_images.of_split("train")
    fold_of = cut_folds(images, FOLDS, seed=0)
    logits = held_out_logits(recipe, images, fold_of, seed=0)
    changed = images.labels.copy()
    changed[fold_of == 2] = 1 - changed[fold_of == 2].clip(0)
    again = held_out_logits(recipe, images.with_labels(changed), fold_of, seed=0)
    np.testing.assert_array_equal(again[fold_of == 2], logits[fold_of == 2])
    assert (again[fold_of != 2] != logits[fold_of != 2]).all()


def test_folds_keep_groups_whole_and_spread_the_known_yes(colour_images):
    groups = np.array([f"scene {i // 2}" for i in range(len(colour_images))], dtype=object)
    images = colour_images.with_column("group", groups)
    fold_of = cut_folds(images, 4, seed=1)
    assert np.bincount(fold_of).tolist() == [12, 12, 12, 12]
    assert all(len(set(fold_of[groups == name])) == 1 for name in groups)
    for column in colour_images.labels.T:
        yes = np.bincount(fold_of[column == 1], minlength=4)
        assert yes.max() - yes.min() <= 4
    with pytest.raises(HalflabelError, match="fewer than 4 groups"):
        cut_folds(images.with_column("group", ["all"] * len(images)), 4, seed=1)


def test_labels_of_the_test_split_are_never_hidden_nor_seen(probe, colour_table, colour_images, tmp_path):
    one = entrants_of(tmp_path, colour_table, probe)
    settings = [Setting("random 0.9", {"protocol": "random", "keep": 0.9})]
    images = split_images(colour_images, settings, 0.2)
    flipped = images.labels.copy()
    test = images.column("split") == "test"
    flipped[test] = 1 - flipped[test]
    runs = [
        run_all(one, settings, some, 1, RunLog(tmp_path / f"{i}.jsonl", {}))[0]
        for i, some in enumerate((images, images.with_labels(flipped)))
    ]
    assert runs[0].held_out_ap == runs[1].held_out_ap
    assert runs[0].judged == runs[1].judged
    assert runs[0].test_ap != runs[1].test_ap
    assert None not in runs[0].test_ap


# what is recommended


def test_scores_are_judged_by_known_entries_and_by_known_yes_against_all_images():
    scores, truth = noise()
    labels = hide(truth, 0.6)
    labels[5, 0] = -101
    of_known, of_all = [], []
    for j in range(3):
        known = labels[:, j] >= 0
        of_known.append(roc_auc_score(labels[known, j], scores[known, j]))
        asked = labels[:, j] != -101
        of_all.append(roc_auc_score(labels[asked, j] == 1, scores[asked, j]))
    value, resampled = judge(scores, labels)
    assert value == pytest.approx((np.mean(of_known) + np.mean(of_all)) / 2)
    assert abs(resampled.mean() - value) < 3 * resampled.std()


def test_without_a_known_no_known_yes_are_ranked_among_all_images():
    scores, truth = noise()
    labels = np.where(truth == 1, hide(truth, 0.5), -100)
    expected = np.mean([roc_auc_score(labels[:, j] == 1, scores[:, j]) for j in range(3)])
    assert judge(scores, labels)[0] == pytest.approx(expected)
    assert np.isnan(judge(scores, np.full_like(labels, -100))[0])


def test_the_recipe_that_learns_is_recommended_though_another_stands_first(probe, colour_table, tmp_path, capsys):
    still = f"{probe} {STANDS_STILL}"
    assert compare(colour_table, tmp_path, "--recipes", still, probe, "--keep", "0.9", "--seeds", "2") == 0
    shown, part = capsys.readouterr().out, found(tmp_path)["settings"][0]
    assert part["recommended"]["recipe"] == probe
    assert part["recommended"]["by"] == BY_AUROC
    assert part["recommended"]["right"]
    rows = part["recipes"]
    assert rows[probe]["test_mAP"]["mean"] > rows[still]["test_mAP"]["mean"]
    assert "recommended: " in shown
    assert "best on test, or within 0.01: 1 of 1" in shown


def test_real_unknown_labels_are_compared_on_held_out_known_ones(probe, colour_table, tmp_path, capsys):
    still = f"{probe} {STANDS_STILL}"
    assert compare(colour_table, tmp_path, "--recipes", still, probe, "--seeds", "1") == 0
    part = found(tmp_path)["settings"][0]
    assert part["recommended"]["recipe"] == probe
    assert "test_mAP" not in part["recipes"][probe]
    low, high = part["recipes"][probe]["judged_minus_first"]["interval"]
    assert 0 < low < part["recipes"][probe]["judged_minus_first"]["mean"] < high
    assert "on test" not in capsys.readouterr().out


def test_few_known_entries_go_by_the_rule_of_thumb(probe, colour_table, tmp_path):
    texts = [probe, f"{probe} --loss ll_r", f"{probe} --unknown negative"]
    some = entrants_of(tmp_path, colour_table, *texts)
    judged = {text: np.array([0.9 - 0.1 * i]) for i, text in enumerate(texts)}
    resampled = {text: np.full((1, 5), 0.5) for text in texts}
    verdict = choose(some, 19.9, judged, resampled)
    assert (verdict.recipe, verdict.by) == (texts[1], BY_RULE)
    assert "19.9 known entries per label" in verdict.reason
    verdict = choose([some[0], some[2]], 19.9, judged, resampled)
    assert verdict.recipe == texts[2]
    assert choose(some, 20, judged, resampled).recipe == texts[0]


def test_of_equals_the_first_is_recommended(probe, colour_table, tmp_path):
    some = entrants_of(tmp_path, colour_table, f"{probe} --num_train_epochs 9", probe)
    judged = {one.name: np.array([0.7, 0.8]) for one in some}
    verdict = choose(some, 100, judged, {one.name: np.full((2, 9), 0.7) for one in some})
    assert verdict.recipe == some[0].name
    assert "not clearly" in verdict.reason


# what is reported


def some_runs(settings, names, seeds=4, undefined=False):
    rng = np.random.default_rng(0)
    return [
        Run(
            setting.name, seed, name, 50.0,
            [float(v) for v in rng.random(3)] if setting.hiding else None,
            [float(rng.random()), float(rng.random()), None if undefined else float(rng.random())],
            float(rng.random()), [float(v) for v in rng.random(20)],
        )
        for setting in settings for seed in range(seeds) for name in names
    ]  # fmt: skip


def test_differences_are_paired_by_seed(probe, colour_table, tmp_path):
    some = entrants_of(tmp_path, colour_table, probe, f"{probe} --loss em")
    names, settings = [one.name for one in some], [Setting("random 0.3", {"protocol": "random", "keep": 0.3})]
    runs = some_runs(settings, names)
    rows = report_comparison(runs, some, settings, LABELS)["settings"][0]["recipes"]
    a, b = ([np.mean(run.test_ap) for run in runs if run.recipe == name] for name in names)
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert rows[names[1]]["test_minus_first"]["interval"] == pytest.approx([expected.low, expected.high])
    assert rows[names[1]]["test_mAP"]["sd"] == pytest.approx(np.std(b, ddof=1))
    one_seed = report_comparison([run for run in runs if run.seed == 0], some, settings, LABELS)
    assert "interval undefined" in render_comparison(one_seed)


def test_tables_fit_the_terminal_and_name_what_is_undefined(probe, colour_table, tmp_path):
    some = entrants_of(tmp_path, colour_table, probe, f"{probe} --loss em --per_device_train_batch_size 4 --views 1")
    for settings in ([Setting("as it is")], [Setting("a", {"x": 1}), Setting("b", {"x": 2})]):
        runs = some_runs(settings, [one.name for one in some], undefined=True)
        report = report_comparison(runs, some, settings, LABELS)
        text = render_comparison(report)
        assert max(len(line) for line in text.splitlines()) <= 120
        assert text.count("--per_device_train_batch_size 4 --views 1") >= len(settings)  # a long name keeps its end
        assert "labels with undefined AP held out: 1 (emu)" in text
        assert report["settings"][0]["undefined_held_out"] == ["emu"]
        assert "| recipe |" in render_comparison(report, markdown=True)
        json.dumps(report, allow_nan=False)


def test_what_is_undefined_for_every_seed_is_called_so(probe, colour_table, tmp_path):
    some, settings = entrants_of(tmp_path, colour_table, probe), [Setting("as it is")]
    runs = [Run("as it is", seed, probe, 9.0, None, [None, None], None, [None]) for seed in range(2)]
    report = report_comparison(runs, some, settings, LABELS[:2])
    assert report["settings"][0]["recipes"][probe]["held_out_mAP"]["mean"] is None
    assert "undefined" in render_comparison(report)


def test_a_comparison_goes_on_where_it_was_stopped(probe, colour_table, tmp_path, capsys):
    arguments = ["--recipes", probe, f"{probe} --loss em", "--protocol", "single_positive", "--seeds", "1"]
    assert compare(colour_table, tmp_path, *arguments) == 0
    first = found(tmp_path)
    log = tmp_path / "found" / "runs.jsonl"
    head, run, other, _ = log.read_text().split("\n")
    log.write_text(f"{head}\n{run.replace(json.dumps(json.loads(run)['test_ap']), '[0.25, 0.75]')}\n{other[:40]}")
    assert compare(colour_table, tmp_path, *arguments) == 0
    rows = found(tmp_path)["settings"][0]["recipes"]
    assert rows[probe]["test_mAP"]["mean"] == 0.5  # it was not trained again
    assert rows[f"{probe} --loss em"] | {"test_minus_first": 0} == first["settings"][0]["recipes"][
        f"{probe} --loss em"
    ] | {"test_minus_first": 0}
    capsys.readouterr()
    assert compare(colour_table, tmp_path, "--recipes", probe) == 2
    assert "holds runs on other data or of other recipes" in capsys.readouterr().err


def test_nothing_is_left_behind(probe, colour_table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = set(os.listdir())
    assert main(["compare", str(colour_table), "--recipes", f"{probe} --feature_cache none", "--seeds", "1"]) == 0
    assert set(os.listdir()) - before == {"comparison"}
    assert sorted(os.listdir("comparison")) == ["compare.json", "compare.md", "runs.jsonl"]
    assert os.listdir("temporary") == []


# what may be asked


def test_protocols_become_settings():
    space = LabelSpace(LABELS)
    names = [one.name for one in make_settings(["random", "by_group", "random"], [0.1, 0.5, 0.1], None, None, space)]
    assert names == ["random 0.1", "random 0.5", "by group (2 teams)"]
    teams = make_settings(["by_group"], None, None, None, space)[0].hiding["groups"]
    assert sorted(name for team in teams.values() for name in team) == sorted(LABELS)
    assert make_settings(None, None, [5], None, space)[0].hiding == {"protocol": "per_label", "per_label": 5}
    assert make_settings(None, None, None, None, space) == [Setting("as it is")]
    with pytest.raises(HalflabelError, match="at least 2 labels"):
        make_settings(["by_group"], None, None, None, LabelSpace(["one"]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{probe}", "--protocol", "singlepositive"], "did you mean single_positive"),
        (["{probe}", "--protocol", "random", "--per_label", "5"], "--per_label belongs to protocol per_label"),
        (["{probe}", "--keep", "1.5"], "expected a probability"),
        (["{probe}", "--groups", '["red"]'], "mapping of teams"),
        (["{probe}", "--groups", '{"a": ["rde"]}'], "did you mean red"),
        (["linear_prob"], "did you mean linear_probe"),
        (["{probe}", "{probe}"], "given twice"),
        (["{probe}", "{probe} --cache_features false"], "without it: {probe} --cache_features false"),
        (["{probe}", "{probe} --backbone test_vit"], "different backbone"),
        (["{probe} --early_stopping_patience 2"], "remove early_stopping_patience"),
        (['{probe} --head_args "'], "No closing quotation"),
    ],
)
def test_mistakes_end_in_one_line(arguments, told, probe, colour_table, tmp_path, capsys):
    filled = [text.replace("{probe}", probe) for text in arguments]
    assert compare(colour_table, tmp_path, "--recipes", *filled) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert told.replace("{probe}", probe) in lines[-1]
    assert lines[-1].startswith("halflabel: error: ")


def test_what_cannot_be_measured_is_refused(colour_images):
    hidden = [Setting("random 0.3", {"protocol": "random", "keep": 0.3})]
    splits = np.where(colour_images.column("split") == "test", "validation", "train").astype(object)
    without_test = colour_images.with_column("split", splits)
    with pytest.raises(HalflabelError, match="in the test split: nothing can be measured"):
        split_images(without_test, hidden, 0.2)
    assert set(split_images(without_test, [Setting("as it is")], 0.2).column("split")) == {"train"}
    with pytest.raises(HalflabelError, match="no known yes"):
        split_images(colour_images.with_labels(np.zeros_like(colour_images.labels)), hidden, 0.2)


def test_where_everything_is_known_a_line_says_so(colour_images, caplog):
    caplog.set_level("INFO", "halflabel")
    split_images(colour_images.with_labels(np.abs(colour_images.labels) % 2), [Setting("as it is")], 0.2)
    assert "every entry is known" in caplog.text
