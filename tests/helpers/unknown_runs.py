"""Small runs through the real Trainer for the tests of mixing, and the same steps by hand.

`write_mixing` makes the steps in one of two processes and write what it has then.
"""

import os
from functools import partial

import torch
import torch.nn.functional as F
import transfer_runs
import yaml
from safetensors.torch import load_file
from transfer_runs import Record, Rows, Stop, broken_off, copies, make_model, make_trainer, one_thread  # noqa: F401 - a fixture

from halflabel import MultiLabelTrainer
from halflabel.data.pixels import collate
from halflabel.share.trained import train
from halflabel.training.arguments import parse_recipe
from halflabel.training.mixing import MixingCollator

RATE, STEPS, ROWS = 0.05, 4, 20
SGD = {
    "optim": "sgd", "learning_rate": RATE, "weight_decay": 0.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
    "train_sampling_strategy": "sequential",
}  # fmt: skip
TEACHING = {"decay": 0.6, "weight": 10.0, "ramp": 0.5, "share": 0.7}
PREVALENCE = torch.tensor([0.3, 0.6])
RECIPE = {
    "backbone": "test_resnet", "weights": "none", "optim": "adamw_torch", "num_train_epochs": 4, "learning_rate": 0.01,
    "per_device_train_batch_size": 8, "use_cpu": True, "disable_tqdm": True, "report_to": "none",
    "max_train_images": 20, "max_test_images": 4,
}  # fmt: skip


def smooth_model():
    """A network whose images do not see one another: it has no BatchNorm."""
    return make_model("test_vit", {"img_size": transfer_runs.SIDE})


class HalfKnown(Rows):
    """Noise of which every other answer is unknown; `plain` is the picture without its augmentation."""

    def __init__(self, count=ROWS, plain=False):
        super().__init__(count)
        generator = torch.Generator().manual_seed(1)
        if plain:
            self.pixels = self.pixels + 0.3 * torch.randn(self.pixels.shape, generator=generator)
        self.labels[torch.rand(self.labels.shape, generator=torch.Generator().manual_seed(2)).numpy() < 0.5] = -100


def descend(model, loss):
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= RATE * parameter.grad


def step_by_hand(pixels, labels):
    """One step on known entries in float64; return the weights."""
    model, known = smooth_model().double(), labels >= 0
    logits = model(pixels.double()).logits
    descend(model, F.binary_cross_entropy_with_logits(logits[known], labels[known].double(), reduction="mean"))
    return copies(model)


def mixing_step(folder):
    """One step on 20 mixed images; return the batch as it was trained on, and the weights after it."""
    batches = []

    class Look(MultiLabelTrainer):
        def compute_loss(self, model, inputs, *arguments, **keywords):
            batches.append({key: inputs[key].clone() for key in ("pixel_values", "labels")})
            return super().compute_loss(model, inputs, *arguments, **keywords)

    collator = MixingCollator(collate, "mixup", "bce", probability=0.7, alpha=1.0)
    trainer = make_trainer(
        smooth_model(), folder, trainer_class=partial(Look, train_collator=collator), num_train_epochs=1,
        per_device_train_batch_size=12, **SGD,
    )  # fmt: skip
    trainer.train_dataset = HalfKnown()
    trainer.train()
    return {**batches[0], "weights": copies(trainer.model)}


def train_recipe(table, folder, *overrides, **keys):
    """Train a recipe on a tiny network; return its weights."""
    folder.mkdir(exist_ok=True)
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "data": str(table), "output_dir": str(folder / "out"), **keys}))
    return load_file(train(parse_recipe(str(path), overrides)).folder / "model.safetensors")


def train_recipe_in_two_parts(table, folder, **keys):
    """Break a recipe off in its third evaluation, go on from the second epoch's checkpoint, and return the weights."""
    with broken_off(evaluation=3):
        train_recipe(table, folder, **keys)
    return train_recipe(table, folder, "--resume_from_checkpoint", **keys)


def write_mixing(folder):
    torch.save(mixing_step(folder / "run"), folder / f"end.{os.environ['RANK']}")
