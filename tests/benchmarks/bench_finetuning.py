"""An epoch of fine-tuning, beside the stock wrapper with the stock Trainer, and beside the bare network.

    python tests/benchmarks/bench_finetuning.py labels.csv [--images 256] [--rounds 3] [--backbones A B] [--compiled]
                                                [--output FILE]

Pictures as they are, and enlarged to 1920 x 1280. Stock is `TimmWrapperForImageClassification` with its own image
processor's transforms and `Trainer`. The limit is forward, backward and step on a batch that lies in memory, with freed
memory kept and channels_last as halflabel has them. All have the same batch size and optimizer; each runs in a process
of its own, interleaved. Images per second: the Trainer's own count, which leaves out start and saving; medians. With
`--compiled` also the limit under `torch.compile`, without the time that compiling takes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from bench_probe import Pictures
from side_by_side import copy_pictures, finish, median, run_side, show, side_parser

RATES = {"optim": "adamw_torch", "learning_rate": 1e-4, "weight_decay": 0.05, "per_device_train_batch_size": 16,
         "lr_scheduler_type": "cosine"}  # fmt: skip


def stock(data, backbone, folder):
    from transformers import (
        TimmWrapperConfig,
        TimmWrapperForImageClassification,
        TimmWrapperImageProcessor,
        Trainer,
        TrainingArguments,
    )

    table = pd.read_csv(data)
    names = [name for name in table.columns if name not in ("file_name", "split", "group")]
    model = TimmWrapperForImageClassification(
        TimmWrapperConfig(architecture=backbone, num_labels=len(names), problem_type="multi_label_classification")
    )
    processor = TimmWrapperImageProcessor(pretrained_cfg=dict(model.timm_model.pretrained_cfg))
    arguments = TrainingArguments(folder, num_train_epochs=1, report_to="none", save_strategy="no",
                                  remove_unused_columns=False, logging_strategy="no", **RATES)  # fmt: skip
    pictures = Pictures(table, data.parent, names, processor.train_transforms)
    return Trainer(model=model, args=arguments, train_dataset=pictures).train().metrics["train_samples_per_second"]


def ours(data, backbone, folder):
    from halflabel.share.trained import train
    from halflabel.training.features import keep_freed_memory
    from halflabel.training.recipe import parse_recipe

    keep_freed_memory()  # as the command line does
    flags = {**RATES, "data": data, "output_dir": folder, "num_train_epochs": 1, "report_to": "none", "weights": "none",
             "backbone": backbone, "validation_share": 0, "test_share": 0, "save_strategy": "no"}  # fmt: skip
    result = train(parse_recipe("finetune", [f"--{key}={value}" for key, value in flags.items()]))
    return json.loads((result.folder / "training_log.json").read_text())[-1]["train_samples_per_second"]


def limit(data, backbone, folder, compiled=False):
    import timm

    from halflabel.training.features import keep_freed_memory

    keep_freed_memory()
    model = timm.create_model(backbone, num_classes=4).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), RATES["learning_rate"])
    size, steps = RATES["per_device_train_batch_size"], len(pd.read_csv(data)) // RATES["per_device_train_batch_size"]
    pixels = torch.randn(size, 3, 224, 224).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (size, 4)).float()
    forward = torch.compile(model) if compiled else model
    for step in range(-2 if compiled else 0, steps):
        if step == 0:
            start = time.perf_counter()  # compiling is left out
        torch.nn.functional.binary_cross_entropy_with_logits(forward(pixels), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return size * steps / (time.perf_counter() - start)


def compiled(data, backbone, folder):
    return limit(data, backbone, folder, compiled=True)


SIDES = {"stock": stock, "ours": ours, "limit": limit, "compiled": compiled}


def main():
    parser = side_parser(__doc__, SIDES)
    parser.add_argument("--backbone", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help="also measure the limit under torch.compile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.side:
            finish({"images/s": SIDES[options.side](options.table, options.backbone, f"{folder}/out")})
            return
        rows = []
        for large in (False, True):
            table = copy_pictures(options.data, Path(folder, f"large-{large}"), options.images, large)
            for backbone in options.backbones:
                found = {side: [] for side in SIDES if side != "compiled" or options.compiled}
                for _ in range(options.rounds):
                    for side, rounds in found.items():
                        rounds.append(run_side(__file__, side, table=table, backbone=backbone))
                speed = {side: median(rounds, "images/s") for side, rounds in found.items()}
                kind, (peer, best) = "1920x1280" if large else "as they are", (speed["stock"], speed["limit"])
                ratios = {"to stock": speed["ours"] / peer, "to limit": speed["ours"] / best}
                rows.append({"backbone": backbone, "pictures": kind, **speed, **ratios})
        show(rows, list(rows[0]), options.output)


if __name__ == "__main__":
    main()
