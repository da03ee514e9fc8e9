"""What two processes do together, started by test_distributed.py under torchrun: `two_processes.py RECIPE FOLDER`.

Each process writes FOLDER/RANK.json: what `fully_shard` made of a model and its step, what an evaluation on a ragged
last batch gathered, which pictures its loading processes read of a stream in which pass, and which files it wrote in a
training.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import transfer_runs
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

import halflabel.data.streaming
from halflabel.metrics.trainer import trainer_metrics
from halflabel.model.objective import count_items
from halflabel.share.trained import train
from halflabel.training.preparation import prepare_data
from halflabel.training.recipe import parse_recipe

RATE, NORMALIZERS = 0.1, ("labels", "images", "tasks")


def sharded_model(normalizer):
    """A network without BatchNorm, so that images do not see one another, and 10 images of which the last know less."""
    model = transfer_runs.make_model("test_vit", {"img_size": transfer_runs.SIDE}).eval()
    model.config.normalizer = normalizer
    rows = transfer_runs.Rows(10)
    rows.labels[6:, 1] = -100
    return model, rows.pixels, torch.from_numpy(rows.labels).float()


def step(model, pixels, labels, counts, processes=1):
    """One step of gradient descent; return the loss of these images."""
    loss = model(pixels, labels=labels, num_items_in_batch=counts).loss * processes  # gradients are averaged
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= RATE * parameter.grad
    return float(loss.detach()) / processes


def sharded_steps(rank, folder):
    """A step of each normalizer on 5 of 10 images; rank 0 writes the weights after it."""
    found = {}
    for normalizer in NORMALIZERS:
        model, pixels, labels = sharded_model(normalizer)
        whole = {name: parameter.numel() for name, parameter in model.named_parameters()}
        for block in model.backbone.blocks:
            fully_shard(block)
        fully_shard(model)
        mine = slice(5 * rank, 5 * rank + 5)
        loss = step(model, pixels[mine], labels[mine], count_items(labels, "bce"), processes=2)
        full = {name: parameter.full_tensor().detach() for name, parameter in model.named_parameters()}
        if rank == 0:
            torch.save(full, folder / f"{normalizer}.pt")
        parameters = dict(model.named_parameters())
        found[normalizer] = {
            "loss": loss,
            "wrapped": isinstance(model, FSDPModule) and all(isinstance(b, FSDPModule) for b in model.backbone.blocks),
            "parameters are DTensor": all(isinstance(one, DTensor) for one in parameters.values()),
            "share here": sum(one.to_local().numel() for one in parameters.values()) / sum(whole.values()),
        }
    return found


def evaluated(folder):
    """Evaluate 11 images in batches of 4: in the last step there are 3 for 8 places."""
    trainer = transfer_runs.make_trainer(
        transfer_runs.make_model(), folder / "evaluated", per_device_eval_batch_size=4, batch_eval_metrics=False
    )
    trainer.compute_metrics = trainer_metrics
    found = trainer.predict(transfer_runs.Rows(11))
    return {
        "logits": np.asarray(found.predictions).tolist(),
        "labels": np.asarray(found.label_ids).tolist(),
        "known_loss": found.metrics["test_known_loss"],
    }


class Note(halflabel.data.streaming.PrepareRows):
    """Also notes which row was read in which pass."""

    def __call__(self, batch):
        worker = torch.utils.data.get_worker_info()
        with Path(os.environ["READ"] + f".{worker.id if worker else 'none'}").open("a") as lines:
            for number, name in zip(batch[halflabel.data.streaming._PASS], batch["file_name"], strict=True):
                lines.write(f"{number} {name}\n")
        return super().__call__(batch)


def read_stream(recipe, folder, rank):
    """Let the Trainer's loader read a stream in two processes of its own; return [pass, picture] as they came."""
    os.environ["READ"] = str(folder / f"read.{rank}")
    stream = prepare_data(recipe).stream
    prepare = Note(stream, lambda picture: torch.zeros(3, 32, 32), lambda codes: codes)
    trainer = transfer_runs.make_trainer(
        transfer_runs.make_model(), folder / "read", max_steps=9, dataloader_num_workers=2,
        accelerator_config={"dispatch_batches": False},
    )  # fmt: skip
    trainer.train_dataset = stream.training_rows(prepare, seed=0, buffer_size=4)
    for number, _ in enumerate(trainer.get_train_dataloader()):
        if number == 24:  # 100 pictures here, and as many there, of passes of 32
            break
    files = sorted(folder.glob(f"read.{rank}.*"))
    return {file.suffix: [line.split() for line in file.read_text().splitlines()] for file in files}


def trained(recipe, folder):
    """Train with checkpoints; return the files that this process opened to write, made or renamed."""
    changed = []

    def watch(event, arguments):
        path = str(arguments[0]) if arguments else ""
        writes = event in ("os.mkdir", "os.rename", "os.remove") or (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        )
        if writes and path.startswith(str(recipe.folder)):
            changed.append(f"{event} {path.removeprefix(str(recipe.folder))}")

    sys.addaudithook(watch)
    result = train(recipe)
    return {"changed": changed, "metrics": result.metrics}


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe_file, output, shards = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    this = int(os.environ["RANK"])
    recipe = parse_recipe(recipe_file)
    streaming = recipe.change(data=[shards], streaming=True, image_folder=None)
    told = {"trained": trained(recipe, output), "evaluated": evaluated(output)}
    told["stream"] = read_stream(streaming, output, this)
    told["sharded"] = sharded_steps(this, output)
    (output / f"{this}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()
