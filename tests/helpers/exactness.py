"""One optimizer step on 20 rows of features through the real Trainer, for every loss and normalizer; and evaluations.

Run by test_trainer.py, in its process and in two.
"""

import os

import numpy as np
import torch
from transfer_runs import make_model, make_trainer
from transformers import TrainingArguments

from halflabel import IGNORE_INDEX, MultiLabelTrainer, TimmMultiLabelForImageClassification
from halflabel.data.pixels import FeatureDataset, collate
from halflabel.metrics.trainer import trainer_metrics

ELEMENTWISE = {"bce": {"label_smoothing": 0.1}, "focal": {}, "asl": {}, "splc": {}, "em": {}, "wan": {}}
NORMALIZERS = ("labels", "images", "tasks")
LABELS = 5
ROWS = 20


def rows():
    """Known fractions from 0 to 1: the last eight rows, all that a second process gets, know nothing."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, 16, generator=generator)
    labels = torch.randint(0, 2, (ROWS, LABELS), generator=generator).numpy().astype(np.int8)
    labels[2:6, 1:] = IGNORE_INDEX
    labels[6:9, :4] = IGNORE_INDEX
    labels[9:12, 2] = IGNORE_INDEX
    labels[12:] = IGNORE_INDEX
    return features, labels


def update(folder, loss, loss_args, normalizer, size, steps, trainer_class=MultiLabelTrainer):
    """Return w1 - w0 of the head, in float64."""
    torch.manual_seed(0)
    features, labels = rows()
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", [f"label {i}" for i in range(LABELS)], weights=None, loss=loss, loss_args=loss_args or None,
        normalizer=normalizer, pos_weight=[1.0, 2.0, 0.5, 1.0, 3.0] if loss != "bce" else None,
        label_weight=[1.0, 1.0, 2.0, 0.5, 1.0],
    )  # fmt: skip
    features = features.repeat(1, 1 + model.head.in_features // 16)[:, : model.head.in_features]
    model.freeze_backbone()
    start = {key: value.detach().clone().double() for key, value in model.head.named_parameters()}
    arguments = TrainingArguments(
        output_dir=folder, num_train_epochs=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
        optim="sgd", learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant", report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
        train_sampling_strategy="sequential", ddp_find_unused_parameters=False,
    )  # fmt: skip
    trainer = trainer_class(model, arguments, collate, FeatureDataset(features, labels))
    trainer.train()
    assert trainer.state.global_step == 1
    return torch.cat([(v.detach().double() - start[k]).flatten() for k, v in model.head.named_parameters()])


def all_updates(folder, size, steps):
    return {
        (loss, normalizer): update(folder, loss, arguments, normalizer, size, steps)
        for loss, arguments in ELEMENTWISE.items()
        for normalizer in NORMALIZERS
    }


def write_updates(folder, splits):
    """In one of several processes: make the updates of each (batch size, accumulation); the first writes them."""
    updates = {split: all_updates(folder / "run", *split) for split in splits}
    if os.environ["RANK"] == "0":
        torch.save(updates, folder / "updates.pt")


EVALUATED = (("bce", "labels"), ("bce", "images"), ("focal", "tasks"), ("wan", "labels"), ("ll_r", "labels"))


def head_model(loss, normalizer):
    """A model of which the head is trained on rows of features, these features, and their labels."""
    torch.manual_seed(0)
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", [f"label {i}" for i in range(LABELS)], weights=None, loss=loss, normalizer=normalizer,
        pos_weight=[1.0, 2.0, 0.5, 1.0, 3.0], label_weight=[1.0, 1.0, 2.0, 0.5, 1.0],
    )  # fmt: skip
    model.head.linear.weight.data.normal_()
    features, labels = rows()
    return model, features.repeat(1, 1 + model.head.in_features // 16)[:, : model.head.in_features], labels


def evaluation_losses(folder, size):
    """Return `eval_loss` of each of `EVALUATED`, which is also that of `predict`, and needs no `compute_metrics`."""
    found = {}
    for loss, normalizer in EVALUATED:
        model, features, labels = head_model(loss, normalizer)
        arguments = TrainingArguments(
            output_dir=folder, per_device_eval_batch_size=size, report_to="none", use_cpu=True, disable_tqdm=True,
            remove_unused_columns=False, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = MultiLabelTrainer(model, arguments, collate, eval_dataset=FeatureDataset(features, labels))
        found[loss, normalizer] = trainer.evaluate()["eval_loss"]
        assert trainer.predict(trainer.eval_dataset).metrics["test_loss"] == found[loss, normalizer]
        trainer.compute_metrics = trainer_metrics
        assert trainer.evaluate()["eval_loss"] == found[loss, normalizer]
    return found


def write_evaluation_losses(folder, sizes):
    """In one of several processes."""
    found = {size: evaluation_losses(folder / "run", size) for size in sizes}
    torch.save(found, folder / f"losses.{os.environ['RANK']}")


def evaluated_loss(folder):
    """Return `eval_loss` of a network with BatchNorm; processes but the first have other statistics in it."""
    model = make_model()
    if os.environ.get("RANK", "0") != "0":
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 1
    return make_trainer(model, folder, per_device_eval_batch_size=2).evaluate()["eval_loss"]


def write_evaluated_loss(folder):
    (folder / f"loss.{os.environ['RANK']}").write_text(repr(evaluated_loss(folder / "run")))
