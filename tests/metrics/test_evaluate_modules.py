import datasets
import evaluate
import numpy as np
import pytest
import torch
from known_rows import of_known_rows
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from halflabel import HalflabelError
from halflabel.metrics.evaluate_modules import NAMES, path

datasets.disable_progress_bars()


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((40, 3)), rng.choice([0, 1, -100], (40, 3))
    labels[:, 2] = -100
    return scores, labels


def listed(values):
    return [None if np.isnan(value) else pytest.approx(value) for value in values]


def test_average_precision_from_batches_is_scikit_learns_on_known_rows(case):
    scores, labels = case
    module = evaluate.load(path("multilabel_average_precision"))
    module.add_batch(predictions=scores[:25], references=labels[:25])
    module.add_batch(predictions=torch.from_numpy(scores[25:]), references=torch.from_numpy(labels[25:]).float())
    expected = of_known_rows(average_precision_score, scores, labels)
    assert module.compute() == {
        "mAP": pytest.approx(np.nanmean(expected)),
        "average_precision": listed(expected),
        "undefined_average_precision": 1,
    }


def test_roc_auc_is_scikit_learns_on_known_rows_the_second_time_too(case):
    expected = of_known_rows(roc_auc_score, *case)
    for _ in range(2):
        assert evaluate.load(path("multilabel_roc_auc")).compute(predictions=case[0], references=case[1]) == {
            "mAUROC": pytest.approx(np.nanmean(expected)),
            "roc_auc": listed(expected),
            "undefined_roc_auc": 1,
        }


def test_f1_is_scikit_learns_at_the_thresholds_of_loading_or_of_computing(case):
    scores, labels = case
    loaded = evaluate.load(path("multilabel_f1"), thresholds=[0.2, 0.4, 0.6])
    for thresholds, found in (
        ([0.2, 0.4, 0.6], loaded.compute(predictions=scores, references=labels)),
        (0.7, loaded.compute(predictions=scores, references=labels, thresholds=0.7)),
        (0.5, evaluate.load(path("multilabel_f1")).compute(predictions=scores, references=labels)),
    ):
        decided, known = (scores >= thresholds).astype(int), labels >= 0
        expected = of_known_rows(f1_score, decided, labels)
        assert found["f1"] == listed(expected)
        assert found["macro_F1"] == pytest.approx(np.nanmean(expected))
        assert found["OF1"] == pytest.approx(f1_score(labels[known], decided[known]))
        assert found["undefined_f1"] == 1
        assert {"CP", "CR", "CF1", "OP", "OR"} <= set(found)


def test_they_combine(case):
    scores, labels = case
    separate = [evaluate.load(path(name)).compute(predictions=scores, references=labels) for name in NAMES]
    combined = evaluate.combine([path(name) for name in NAMES])
    assert combined.compute(predictions=scores, references=labels) == {k: v for one in separate for k, v in one.items()}
    combined.add_batch(predictions=scores[:10], references=labels[:10])
    combined.add_batch(predictions=scores[10:], references=labels[10:])
    assert combined.compute()["mAP"] == separate[0]["mAP"]


@pytest.mark.parametrize("name", NAMES)
def test_a_module_says_what_it_takes_and_gives(name, case):
    module = evaluate.load(path(name))
    results = module.compute(predictions=case[0], references=case[1])
    assert module.name == name
    assert all(f"{word}" in module.inputs_description for word in ["predictions", "references", "-100", *results])


def test_a_name_that_is_none():
    with pytest.raises(HalflabelError, match="no evaluate module 'multilabel_f2'; did you mean multilabel_f1"):
        path("multilabel_f2")
