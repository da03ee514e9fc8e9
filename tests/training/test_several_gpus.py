"""Several GPUs in one process, which the Trainer drives by `nn.DataParallel`, played on the CPU."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import replicate
from transformers import TrainingArguments

from halflabel import (
    IGNORE_INDEX,
    HalflabelError,
    MultiLabelTrainer,
    TimmMultiLabelForImageClassification,
    TimmMultiLabelImageProcessor,
    trainer_metrics,
)
from halflabel.data.pixels import PixelDataset, collate
from halflabel.model.objective import count_items


@pytest.fixture
def replicas(monkeypatch):
    """Make replicas as `nn.DataParallel` does, all of them on the CPU: modules without parameters of their own."""
    module = __import__("torch.nn.parallel.replicate", fromlist=["replicate"])

    def copies(tensors, devices, detach=False):
        return [[tensor.detach() if detach else tensor * 1 for tensor in tensors] for _ in devices]

    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copies)
    return lambda model, count: replicate(model, list(range(count)))


@pytest.mark.parametrize(
    ("head", "arguments"),
    [
        ("linear", {}),
        ("mlp", {"width": 8, "dropout": 0.0}),
        ("csra", {"temperatures": [1, "max"]}),
        ("ml_decoder", {"width": 16, "feed_forward": 16, "heads": 2, "dropout": 0.0, "learn_queries": True}),
    ],
)
@pytest.mark.parametrize("loss", ["bce", "asl", "splc", "wan"])
def test_two_replicas_make_the_gradient_of_one_model(head, arguments, loss, replicas):
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", ["a", "b", "c"], weights=None, head=head, head_args=arguments, loss=loss
    ).eval()
    model.epoch = 1
    pixels = torch.randn(4, 3, 64, 64)
    labels = torch.tensor([[1.0, 0, IGNORE_INDEX], [0, 1, 1], [IGNORE_INDEX] * 3, [1, IGNORE_INDEX, 0]])
    counts = count_items(labels, loss)
    model(pixels, labels=labels, num_items_in_batch=counts).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    inputs = [
        {"pixel_values": pixels[i : i + 2], "labels": labels[i : i + 2], "num_items_in_batch": counts[None]}
        for i in (0, 2)
    ]
    copies = replicas(model, 2)
    assert not list(copies[0].parameters())
    outputs = [copy(**given) for copy, given in zip(copies, inputs, strict=True)]
    sum(output.loss for output in outputs).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_the_trainer_on_two_devices_of_a_process_makes_the_step_of_one(replicas, colour_images, tmp_path, monkeypatch):
    class OnTwoDevices(nn.Module):
        """`nn.DataParallel`, which without GPUs would run the model once."""

        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            parts = [
                dict(zip(inputs, one, strict=True)) for one in zip(*(v.chunk(2) for v in inputs.values()), strict=True)
            ]
            outputs = [copy(**part) for copy, part in zip(replicas(self.module, len(parts)), parts, strict=True)]
            return {
                "loss": torch.stack([output.loss for output in outputs]),
                "logits": torch.cat([output.logits for output in outputs]),
            }

    monkeypatch.setattr(nn, "DataParallel", OnTwoDevices)
    chosen, steps, measured = colour_images.of_split("train"), [], []
    for devices, exact in ((1, True), (2, True), (2, False)):
        torch.manual_seed(0)
        model = TimmMultiLabelForImageClassification.from_backbone(
            "test_vit", ["red", "blue"], weights=None, normalizer="tasks"
        )
        start = model.head.linear.weight.detach().clone()
        arguments = TrainingArguments(
            tmp_path, max_steps=1, per_device_train_batch_size=16 // devices, gradient_accumulation_steps=2,
            optim="sgd", learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant", report_to="none",
            remove_unused_columns=False, train_sampling_strategy="sequential", average_tokens_across_devices=exact,
            use_cpu=True, save_strategy="no",
        )  # fmt: skip
        arguments._n_gpu = devices
        data = PixelDataset(chosen, TimmMultiLabelImageProcessor.from_backbone(model.backbone).eval_transform())
        if not exact:
            with pytest.raises(HalflabelError, match="average_tokens_across_devices must be true"):
                MultiLabelTrainer(model, arguments, collate, data)
            continue
        trainer = MultiLabelTrainer(model, arguments, collate, data, data, compute_metrics=trainer_metrics)
        trainer.train()
        steps.append(model.head.linear.weight.detach() - start)
        measured.append(trainer.evaluate())
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-3, atol=1e-6)
    assert measured[1]["eval_known_loss"] == pytest.approx(measured[0]["eval_known_loss"], rel=1e-4)
