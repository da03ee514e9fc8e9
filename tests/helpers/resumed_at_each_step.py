"""What several processes do together, started under torchrun: `resumed_at_each_step.py FOLDER STEP ...`.

A run of two epochs that end in a ragged step is made without a break, then gone on with from each step that is named;
FOLDER/RANK.json says for each of them which later steps are not the same to the last bit.
"""

import json
import os
import sys
from pathlib import Path

import torch
import transfer_runs
from transformers import TrainerCallback

from halflabel.metrics.trainer import trainer_metrics


class Weights(TrainerCallback):
    """Keep the weights after each step."""

    def __init__(self):
        self.after = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after[state.global_step] = transfer_runs.copies(model)


def run(folder, images, checkpoint=None):
    """Train on 9 steps an epoch; return the weights after each step, and what was logged of each."""
    weights = Weights()
    trainer = transfer_runs.make_trainer(
        transfer_runs.make_model(), folder, [weights], rows=images, per_device_train_batch_size=2, seed=1,
        save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1, logging_strategy="steps",
        logging_steps=1,
    )  # fmt: skip
    trainer.compute_metrics = trainer_metrics
    trainer.train(resume_from_checkpoint=checkpoint)
    logs = {}
    for entry in trainer.state.log_history:
        kept = {key: value for key, value in entry.items() if not any(w in key for w in ("runtime", "per_", "flos"))}
        logs.setdefault(entry["step"], []).append({k: v for k, v in kept.items() if not k.startswith("train_")})
    return weights.after, logs


def differing(whole, resumed):
    """Return the steps after which weights or logs are not those of the unbroken run."""
    (weights, logs), (again, logged) = whole, resumed
    same = {
        step: all(torch.equal(tensor, weights[step][name]) for name, tensor in found.items())
        and logged[step] == logs[step]
        for step, found in again.items()
    }
    return [step for step, equal in same.items() if not equal]


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, steps = Path(sys.argv[1]), [int(step) for step in sys.argv[2:]]
    processes = int(os.environ["WORLD_SIZE"])
    pictures = 16 * processes + 1  # nine steps, the last of which has one picture for all places
    unbroken = run(place / "whole", pictures)
    found = {}
    for step in steps:
        resumed = run(place / "whole", pictures, str(place / "whole" / f"checkpoint-{step}"))
        found[step] = [len(resumed[0]), differing(unbroken, resumed)]
    (place / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
