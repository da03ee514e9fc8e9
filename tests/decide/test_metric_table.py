import numpy as np

from halflabel.decide.metric_table import render_metrics
from halflabel.metrics.measures import evaluate_scores
from halflabel.model.decisions import NEVER


def measured(labels, thresholds=0.5, **more):
    scores = np.linspace(0.1, 0.9, np.size(labels)).reshape(np.shape(labels))
    names = [f"label {i}" for i in range(np.shape(labels)[1])]
    return {"split": "test", **evaluate_scores(scores, labels, names, thresholds), **more}


def test_a_line_per_label_and_the_means():
    lines = render_metrics(measured([[0, 1], [1, 0], [1, 1]], [0.000123, NEVER])).splitlines()
    assert lines[1].split() == ["test", "split", "known", "yes", "AP", "precision", "recall", "F1", "yes", "from"]
    assert lines[2].split() == ["label", "0", "3", "2", "1.000", "0.667", "1.000", "0.800", "0.000123"]
    assert lines[3].split()[-4:] == ["undefined", "0.000", "0.000", "never"]  # no yes is decided, so no precision
    assert lines[4].split()[0] == "mAP"


def test_undefined_is_a_word_and_a_long_list_is_cut():
    text = render_metrics(measured(np.ones((2, 300), int)))
    assert "undefined, for want of a known yes or a known no: label 0, label 1" in text
    assert "and 260 more labels" in text
    assert max(map(len, text.splitlines())) < 250


def test_all_images_are_not_called_a_split():
    assert "all images" in render_metrics(measured([[0], [1]], split="all"))
    assert render_metrics({"split": None}) == "no test split: nothing was measured"


def test_intervals_stand_where_they_are_defined():
    metrics = measured([[0, 1], [1, 1]], mAP_interval=[0.25, 1.0])
    metrics["labels"]["label 0"]["AP_interval"] = [0.5, 1.0]
    metrics["labels"]["label 1"]["AP_interval"] = [None, None]
    lines = render_metrics(metrics).splitlines()
    assert lines[2].endswith("  AP 0.500 to 1.000")
    assert "AP" not in lines[3]
    assert lines[4].endswith("  0.250 to 1.000")
