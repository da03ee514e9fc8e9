import json
import os
import tempfile

import numpy as np
import pytest
import yaml
from bad_files import change_in_secret
from in_use import in_use
from scipy import stats

from halflabel import HalflabelError
from halflabel.studies.compare import BY_AUROC, BY_RULE, choose, render_comparison, report_comparison
from halflabel.studies.compare import compare as compare_recipes
from halflabel.studies.compare_runs import Run, parse_entrants
from halflabel_cli import main

PROBE = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "use_cpu": True,
    "num_train_epochs": 8, "learning_rate": 0.05, "per_device_train_batch_size": 8, "optim": "sgd", "decide": "f1",
}  # fmt: skip
STANDS_STILL, HIDES = "--learning_rate 1e-9", "--keep_labels 0.9"
LABELS = ("cat", "dog", "emu")


@pytest.fixture
def probe(tmp_path, colour_table):
    path = tmp_path / "probe.yaml"
    path.write_text(yaml.safe_dump({**PROBE, "data": str(colour_table)}))
    return str(path)


def entrants_of(tmp_path, *texts):
    return parse_entrants(texts, tmp_path / "runs")


def compare(table, tmp_path, *arguments):
    return main(["compare", str(table), "--output", str(tmp_path / "found"), *arguments])


def found(tmp_path):
    return json.loads((tmp_path / "found" / "compare.json").read_text())


# what is recommended


def test_the_recipe_that_learns_is_recommended_though_another_stands_first(probe, colour_table, tmp_path, capsys):
    still, good = f"{probe} {STANDS_STILL} {HIDES}", f"{probe} {HIDES}"
    assert compare(colour_table, tmp_path, "--recipes", still, good, "--seeds", "2") == 0
    shown, report = capsys.readouterr().out, found(tmp_path)
    assert (report["recommended"]["recipe"], report["recommended"]["by"]) == (good, BY_AUROC)
    assert report["recommended"]["right"]
    assert report["data"] == [str(colour_table)]
    rows = report["recipes"]
    assert rows[good]["test_mAP"]["mean"] > rows[still]["test_mAP"]["mean"]
    assert "recommended: " in shown
    assert "on test it is the best" in shown


def test_real_unknown_labels_are_compared_on_held_out_known_ones(probe, colour_table, tmp_path, capsys):
    still = f"{probe} {STANDS_STILL}"
    report = compare_recipes([still, probe], str(colour_table), seeds=1, output=tmp_path / "found")
    assert report == found(tmp_path)
    assert report["recommended"]["recipe"] == probe
    assert "test_mAP" not in report["recipes"][probe]
    low, high = report["recipes"][probe]["judged_minus_first"]["interval"]
    assert 0 < low < report["recipes"][probe]["judged_minus_first"]["mean"] < high
    assert "on test" not in render_comparison(report)


def test_few_known_entries_go_by_the_rule_of_thumb(probe, tmp_path):
    texts = [probe, f"{probe} --loss ll_r", f"{probe} --unknown negative"]
    some = entrants_of(tmp_path, *texts)
    judged = {text: np.array([0.9 - 0.1 * i]) for i, text in enumerate(texts)}
    resampled = {text: np.full((1, 5), 0.5) for text in texts}
    verdict = choose(some, 19.9, judged, resampled)
    assert (verdict.recipe, verdict.by) == (texts[1], BY_RULE)
    assert "19.9 known entries per label" in verdict.reason
    verdict = choose([some[0], some[2]], 19.9, judged, resampled)
    assert verdict.recipe == texts[2]
    assert choose(some, 20, judged, resampled).recipe == texts[0]


def test_of_equals_the_first_is_recommended(probe, tmp_path):
    some = entrants_of(tmp_path, f"{probe} --num_train_epochs 9", probe)
    judged = {one.name: np.array([0.7, 0.8]) for one in some}
    verdict = choose(some, 100, judged, {one.name: np.full((2, 9), 0.7) for one in some})
    assert verdict.recipe == some[0].name
    assert "not clearly" in verdict.reason


# what is reported


def some_runs(names, hidden, seeds=4, undefined=False):
    rng = np.random.default_rng(0)
    return [
        Run(
            seed, name, 50.0, rng.random(3).tolist() if hidden else None,
            [*rng.random(2).tolist(), None if undefined else 0.5], float(rng.random()), rng.random(20).tolist(),
        )
        for seed in range(seeds) for name in names
    ]  # fmt: skip


def test_differences_are_paired_by_seed(probe, tmp_path):
    some = entrants_of(tmp_path, f"{probe} {HIDES}", f"{probe} --loss em {HIDES}")
    names = [one.name for one in some]
    runs = some_runs(names, hidden=True)
    rows = report_comparison(runs, some, LABELS)["recipes"]
    a, b = ([np.mean(run.test_ap) for run in runs if run.recipe == name] for name in names)
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert rows[names[1]]["test_minus_first"]["interval"] == pytest.approx([expected.low, expected.high])
    assert rows[names[1]]["test_mAP"]["sd"] == pytest.approx(np.std(b, ddof=1))
    one_seed = report_comparison([run for run in runs if run.seed == 0], some, LABELS)
    assert "interval undefined" in render_comparison(one_seed)


@pytest.mark.parametrize("hides", ["", HIDES])
def test_tables_fit_the_terminal_and_name_what_is_undefined(hides, probe, tmp_path):
    ends = "--per_device_train_batch_size 4 --views 1"
    some = entrants_of(tmp_path, f"{probe} {hides}", f"{probe} {hides} --loss em {ends}")
    report = report_comparison(some_runs([one.name for one in some], bool(hides), undefined=True), some, LABELS)
    text = render_comparison(report)
    assert max(len(line) for line in text.splitlines()) <= 120
    assert ends in text  # a long name keeps its end
    assert "labels with undefined AP held out: 1 (emu)" in text
    assert report["undefined_held_out"] == ["emu"]
    assert "| recipe |" in render_comparison(report, markdown=True)
    json.dumps(report, allow_nan=False)


def test_what_is_undefined_for_every_seed_is_called_so(probe, tmp_path):
    some = entrants_of(tmp_path, probe)
    runs = [Run(seed, probe, 9.0, None, [None, None], None, [None]) for seed in range(2)]
    report = report_comparison(runs, some, LABELS[:2])
    assert report["recipes"][probe]["held_out_mAP"]["mean"] is None
    assert "undefined" in render_comparison(report)


def test_a_comparison_goes_on_where_it_was_stopped(probe, colour_table, tmp_path, capsys):
    names = [f"{probe} --hide_protocol single_positive", f"{probe} --hide_protocol single_positive --loss em"]
    arguments = ["--recipes", *names, "--seeds", "1"]
    assert compare(colour_table, tmp_path, *arguments) == 0
    first = found(tmp_path)["recipes"]
    log = tmp_path / "found" / "runs.jsonl"
    head, run, other, _ = log.read_text().split("\n")
    nulls = "\0" * 40  # as a power cut may leave them
    log.write_text(
        f"{head}\n{nulls}\n{run.replace(json.dumps(json.loads(run)['test_ap']), '[0.25, 0.75]')}\n{other[:40]}"
    )
    assert compare(colour_table, tmp_path, *arguments) == 0
    rows = found(tmp_path)["recipes"]
    assert rows[names[0]]["test_mAP"]["mean"] == 0.5  # it was not trained again
    assert rows[names[1]] | {"test_minus_first": 0} == first[names[1]] | {"test_minus_first": 0}
    capsys.readouterr()
    assert compare(colour_table, tmp_path, "--recipes", probe) == 2
    assert "holds runs on other data or of other recipes" in capsys.readouterr().err
    change_in_secret(colour_table.parent / "003.png")
    assert compare(colour_table, tmp_path, *arguments) == 2
    assert "holds runs on other data or of other recipes" in capsys.readouterr().err


def test_nothing_is_left_behind(probe, colour_table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = set(os.listdir())
    arguments = ["compare", str(colour_table), "--recipes", f"{probe} --feature_cache none", "--seeds", "1"]
    assert main(arguments) == 0
    assert set(os.listdir()) - before == {"comparison"}
    assert sorted(os.listdir("comparison")) == ["compare.json", "compare.md", "runs.jsonl"]
    assert os.listdir("temporary") == []
    assert main(arguments) == 0  # goes on: where features lay in the meantime is nothing to a run


def test_a_folder_in_which_another_comparison_runs_is_left_to_it(probe, colour_table, tmp_path, capsys):
    with in_use(tmp_path / "found") as other:
        assert compare(colour_table, tmp_path, "--recipes", probe) == 2
    assert f"found is in use by process {other} on " in capsys.readouterr().err
    assert not (tmp_path / "found" / "runs.jsonl").exists()


# what may be asked


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{probe} --hide_protocol singlepositive"], "did you mean single_positive"),
        (["{probe} --keep_labels 0.5 --hide_per_label 5"], "'per_label' does not belong to hiding protocol"),
        (["{probe} --keep_labels 1.5"], "expected a probability"),
        (["{probe} --hide_groups '[\"red\"]'"], "hide_groups"),
        (['{probe} --hide_protocol by_group --hide_groups \'{"a": ["rde"]}\''], "did you mean red"),
        (["{probe}", "{probe} --keep_labels 0.5"], "different keep_labels"),
        (["linear_prob"], "did you mean linear_probe"),
        (["{probe}", "{probe}"], "given twice"),
        (["{probe}", "{probe} --cache_features false"], "without it: {probe} --cache_features false"),
        (["{probe}", "{probe} --backbone test_vit"], "different backbone"),
        (["{probe} --early_stopping_patience 2"], "early_stopping_patience counts evaluations"),
        (['{probe} --head_args "'], "No closing quotation"),
    ],
)
def test_mistakes_end_in_one_line(arguments, told, probe, colour_table, tmp_path, capsys):
    filled = [text.replace("{probe}", probe) for text in arguments]
    assert compare(colour_table, tmp_path, "--recipes", *filled) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert told.replace("{probe}", probe) in lines[-1]
    assert lines[-1].startswith("halflabel: error: ")


@pytest.mark.parametrize("option", ["--protocol", "--keep", "--per_label", "--groups"])
def test_options_that_recipes_have_are_no_longer_options(option, colour_table, tmp_path, capsys):
    assert compare(colour_table, tmp_path, "--recipes", "linear_probe", option, "1") == 2
    assert f"unknown option {option}" in capsys.readouterr().err


def test_nothing_to_compare_is_refused(colour_table, tmp_path):
    for recipes, seeds, told in (([], 1, "no recipe is given"), (["linear_probe"], 0, "seeds is 0")):
        with pytest.raises(HalflabelError, match=told):
            compare_recipes(recipes, [str(colour_table)], seeds=seeds, output=tmp_path / "found")
    with pytest.raises(HalflabelError, match="it is a file; name a folder"):
        compare_recipes("linear_probe", [str(colour_table)], output=colour_table)
    with pytest.raises(HalflabelError, match="did you mean linear_probe"):
        compare_recipes("linear_prob", [str(colour_table)], output=tmp_path / "found")
