"""A probe of 10 epochs and an epoch of fine-tuning, beside the stock wrapper with the stock Trainer.

    python tests/benchmarks/bench_against_stock.py labels.csv [--work probe finetune] [--epochs 10] [--rounds 1]

The table must name its splits and know all labels, since the stock side has no word for unknown. Stock is
`TimmWrapperForImageClassification` with its own image processor's transforms and `Trainer`; in the probe its trunk is
frozen. Both sides have the same weights, batch size, optimizer, rates and epochs, and each runs in a process of its
own. Times are from the loaded table to the saved model: halflabel's is the whole of `train`, which also tests the model
and writes the card, stock's the Trainer's making, training and saving; its test is outside.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

BACKBONE = "tf_efficientnet_lite0"
PROBE = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true", "learning_rate": 1e-2, "weight_decay": 0.1,
         "per_device_train_batch_size": 64, "lr_scheduler_type": "cosine"}  # fmt: skip
FINETUNE = {"optim": "adamw_torch", "learning_rate": 1e-4, "weight_decay": 0.05, "per_device_train_batch_size": 16,
            "lr_scheduler_type": "cosine"}  # fmt: skip
WORK = {"probe": PROBE, "finetune": FINETUNE}


class Pictures(torch.utils.data.Dataset):
    """Pictures and labels as the documentation of the stock classes loads them."""

    def __init__(self, table, folder, names, transform):
        self.files = [folder / name for name in table.file_name]
        self.labels = torch.tensor(table[names].to_numpy(np.float32))
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        with Image.open(self.files[i]) as image:
            return {"pixel_values": self.transform(image.convert("RGB")), "labels": self.labels[i]}


def stock(work, data, epochs, folder):
    from transformers import (
        TimmWrapperConfig,
        TimmWrapperForImageClassification,
        TimmWrapperImageProcessor,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from halflabel.weights import create_backbone

    set_seed(0)
    table = pd.read_csv(data)
    names = [name for name in table.columns if name not in ("file_name", "split", "group")]
    trunk = create_backbone(BACKBONE, "installed")
    config = TimmWrapperConfig(architecture=BACKBONE, num_labels=len(names), problem_type="multi_label_classification",
                               pretrained_cfg=dict(trunk.pretrained_cfg))  # fmt: skip
    model = TimmWrapperForImageClassification(config)
    model.timm_model.load_state_dict(trunk.state_dict(), strict=False)
    if work == "probe":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("classifier" in name)
    processor = TimmWrapperImageProcessor(pretrained_cfg=dict(trunk.pretrained_cfg))
    transform = processor.val_transforms if work == "probe" else processor.train_transforms
    images = data.parent / "images" if (data.parent / "images").is_dir() else data.parent
    sets = {split: Pictures(table[table.split == split], images, names, transform) for split in ("train", "test")}
    start = time.perf_counter()
    arguments = TrainingArguments(folder, num_train_epochs=epochs, report_to="none", save_strategy="no",
                                  remove_unused_columns=False, logging_strategy="no", **WORK[work])  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=sets["train"])
    found = trainer.train().metrics
    trainer.save_model(folder)
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "images/s": found["train_samples_per_second"]}
    if work == "probe":
        from sklearn.metrics import average_precision_score

        scores = trainer.predict(sets["test"]).predictions
        result["mAP"] = float(average_precision_score(sets["test"].labels.numpy(), scores, average="macro"))
    return result


def ours(work, data, epochs, folder, cache):
    from halflabel.allocator import keep_freed_memory
    from halflabel.arguments import parse_recipe
    from halflabel.training import train

    keep_freed_memory()  # as the command line does
    start = time.perf_counter()
    flags = {**WORK[work], "data": data, "output_dir": folder, "num_train_epochs": epochs, "report_to": "none",
             "feature_cache": cache, "validation_share": 0, "save_strategy": "no"}  # fmt: skip
    name = "linear_probe" if work == "probe" else "finetune"
    recipe = parse_recipe(name, [f"--{key}={value}" for key, value in flags.items()])
    result = train(recipe)
    seconds = time.perf_counter() - start
    found = json.loads((result.folder / "training_log.json").read_text())[-1]
    speed = found["train_samples_per_second"] if work == "finetune" else None
    return {"seconds": seconds, "mAP": result.metrics["mAP"], "images/s": speed}


def start(side, work, options, cache):
    """Run one side in a process of its own and return what it found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, str(options.data), "--side", side, "--work", work, "--folder", folder,
                   "--cache", cache, "--epochs", str(options.epochs if work == "probe" else 1)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side} {work} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def report(title, found, stock_seconds):
    median = statistics.median(one["seconds"] for one in found)
    score = f"   mAP {found[0]['mAP']:.3f}" if found[0].get("mAP") is not None else ""
    speed = f"   {statistics.median(one['images/s'] for one in found):.1f} images/s" if found[0].get("images/s") else ""
    ratio = "" if stock_seconds is None else f"   {stock_seconds / median:.1f} x"
    print(f"{title:34} {median:8.1f} s{ratio}{speed}{score}", flush=True)
    return median


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--epochs", type=int, default=10, help="of the probe")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=("stock", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        extra = (options.cache,) if options.side == "ours" else ()
        run = ours if options.side == "ours" else stock
        print("\n" + json.dumps(run(options.work[0], options.data, options.epochs, options.folder, *extra)))
        return
    for work in options.work:
        rounds = {"stock": [], "halflabel, first run": [], "halflabel, cache hit": []}
        for _ in range(options.rounds):
            rounds["stock"].append(start("stock", work, options, "none"))
            with tempfile.TemporaryDirectory() as cache:
                rounds["halflabel, first run"].append(start("ours", work, options, cache))
                if work == "probe":
                    rounds["halflabel, cache hit"].append(start("ours", work, options, cache))
        peer = report(f"{work}: stock", rounds["stock"], None)
        for side in list(rounds)[1:]:
            if rounds[side]:
                report(f"{work}: {side}", rounds[side], peer)


if __name__ == "__main__":
    main()
