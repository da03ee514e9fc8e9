import math
from functools import partial

import numpy as np
import pytest
import torch
from known_rows import of_known_rows
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score, roc_auc_score
from transformers import EvalPrediction, Trainer, TrainingArguments

from halflabel import HalflabelError, MultiLabelTrainer, masked_loss
from halflabel.data.pixels import FeatureDataset, collate
from halflabel.metrics.entries import EntryStore
from halflabel.metrics.trainer import BatchMetrics, trainer_metrics


def test_the_loss_is_finite_where_entries_are_known_and_else_undefined():
    for logits, labels, expected in (([[1e4, -1e4]], [[0, 1]], 1e4), ([[0.0]], [[-100]], math.nan)):
        told = trainer_metrics(EvalPrediction(predictions=np.array(logits), label_ids=np.array(labels)))
        assert told["known_loss"] == pytest.approx(expected, nan_ok=True)


def test_what_the_trainer_is_told_is_scikit_learns_on_known_entries():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (60, 4)).astype(np.float32), rng.choice([0, 1, -100, -101], (60, 4))
    labels[:, 1] = np.where(labels[:, 1] == 1, 0, labels[:, 1])  # never yes
    labels[:, 2] = -100
    told = trainer_metrics(EvalPrediction(predictions=logits, label_ids=labels.astype(np.float32)))
    decided, known = (logits >= 0).astype(int), labels >= 0
    cp = np.nanmean(of_known_rows(precision_score, decided, labels))
    cr = np.nanmean(of_known_rows(partial(recall_score, zero_division=np.nan), decided, labels))
    assert told == pytest.approx(
        {
            "mAP": np.nanmean(of_known_rows(average_precision_score, logits, labels, both=True)),
            "mAUROC": np.nanmean(of_known_rows(roc_auc_score, logits, labels, both=True)),
            "known_loss": log_loss(labels[known], 1 / (1 + np.exp(-logits[known].astype(float)))),
            "undefined_labels": 2,
            "CF1": 2 * cp * cr / (cp + cr),
            "OF1": f1_score(labels[known], decided[known]),
        }
    )
    assert all(isinstance(value, float | int) for value in told.values())


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(5, 4)

    def forward(self, features, labels):
        logits = self.linear(features)
        return {"loss": masked_loss(logits, labels), "logits": logits}


def examples(count):
    rng = np.random.default_rng(count)
    labels = rng.choice([0, 1, -100], (count, 4)).astype(np.float32)
    labels[:, 2] = -100
    return [{"features": x, "labels": y} for x, y in zip(rng.normal(size=(count, 5)).astype("f"), labels, strict=True)]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_trainer_is_told_the_same_batch_by_batch_without_holding_all_logits(tmp_path, accumulation, monkeypatch):
    def run(compute_metrics, **more):
        torch.manual_seed(0)
        arguments = TrainingArguments(
            tmp_path, per_device_eval_batch_size=7, gradient_accumulation_steps=accumulation, num_train_epochs=2,
            eval_strategy="epoch", save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, **more,
        )  # fmt: skip
        datasets = {"train_dataset": examples(50), "eval_dataset": examples(45)}
        trainer = Trainer(Linear(), arguments, compute_metrics=compute_metrics, **datasets)
        trainer.train()
        history = [entry for entry in trainer.state.log_history if "eval_mAP" in entry]
        found = [*history, trainer.evaluate(examples(28)), trainer.predict(examples(33)).metrics]
        return [{k: v for k, v in one.items() if "runtime" not in k and "per_second" not in k} for one in found]

    expected = run(trainer_metrics)
    assert len(expected) == 4
    batches = []
    monkeypatch.setattr(
        EntryStore, "add", lambda self, s, y, add=EntryStore.add: (batches.append(len(s)), add(self, s, y))
    )
    told = run(BatchMetrics(), batch_eval_metrics=True)
    assert max(batches) == 7
    assert told == [pytest.approx(one, abs=1e-6) for one in expected]
    assert run(BatchMetrics()) == [pytest.approx(one, abs=1e-6) for one in expected]  # it serves without as well


def test_batches_are_measured_by_trainer_metrics_also_after_an_evaluation_that_broke_off(tiny_model, tmp_path):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(30, tiny_model.head.in_features)).astype(np.float32))
    dataset = FeatureDataset(features, rng.choice([0, 1, -100], (30, 2)).astype(np.int8))
    told = []
    for more in ({}, {"batch_eval_metrics": True}):
        arguments = TrainingArguments(tmp_path, per_device_eval_batch_size=7, report_to="none", use_cpu=True, **more)
        trainer = MultiLabelTrainer(tiny_model, arguments, collate, compute_metrics=trainer_metrics)
        with pytest.raises(HalflabelError, match="is nan for"):
            trainer.evaluate(
                FeatureDataset(torch.where(torch.arange(30)[:, None] > 20, torch.nan, features), dataset.labels)
            )
        told.append(trainer.evaluate(dataset))
    assert told[1]["eval_mAP"] == pytest.approx(told[0]["eval_mAP"])
    assert told[1]["eval_known_loss"] == pytest.approx(told[0]["eval_known_loss"])
    arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True, batch_eval_metrics=True)
    stock = Trainer(tiny_model, arguments, collate, eval_dataset=torch.utils.data.ConcatDataset([dataset] * 2),
                    compute_metrics=trainer_metrics)  # fmt: skip
    with pytest.raises(HalflabelError, match=r"give the Trainer compute_metrics=BatchMetrics\(\)"):
        stock.evaluate()
