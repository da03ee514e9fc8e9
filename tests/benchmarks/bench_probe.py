"""A probe of 10 epochs, beside the stock wrapper with the stock Trainer.

    python tests/benchmarks/bench_probe.py labels.csv [--epochs 10] [--rounds 1]

The table must name its splits and know all labels, since the stock side has no word for unknown. Stock is
`TimmWrapperForImageClassification` with its own image processor's transforms and `Trainer`, its trunk frozen. Both
sides have the same weights, batch size, optimizer, rates and epochs, and each runs in a process of its own. Times are
from the loaded table to the saved model: halflabel's is the whole of `train`, which also tests the model and writes the
card, stock's the Trainer's making, training and saving; its test is outside.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from side_by_side import finish, median, run_side, show

BACKBONE = "tf_efficientnet_lite0"
PROBE = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true", "learning_rate": 1e-2, "weight_decay": 0.1,
         "per_device_train_batch_size": 64, "lr_scheduler_type": "cosine"}  # fmt: skip


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


def stock(data, epochs, folder):
    from transformers import (
        TimmWrapperConfig,
        TimmWrapperForImageClassification,
        TimmWrapperImageProcessor,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from halflabel.model.backbones import create_backbone

    set_seed(0)
    table = pd.read_csv(data)
    names = [name for name in table.columns if name not in ("file_name", "split", "group")]
    trunk = create_backbone(BACKBONE, "installed")
    config = TimmWrapperConfig(architecture=BACKBONE, num_labels=len(names), problem_type="multi_label_classification",
                               pretrained_cfg=dict(trunk.pretrained_cfg))  # fmt: skip
    model = TimmWrapperForImageClassification(config)
    model.timm_model.load_state_dict(trunk.state_dict(), strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("classifier" in name)
    processor = TimmWrapperImageProcessor(pretrained_cfg=dict(trunk.pretrained_cfg))
    images = data.parent / "images" if (data.parent / "images").is_dir() else data.parent
    sets = {
        split: Pictures(table[table.split == split], images, names, processor.val_transforms)
        for split in ("train", "test")
    }
    start = time.perf_counter()
    arguments = TrainingArguments(folder, num_train_epochs=epochs, report_to="none", save_strategy="no",
                                  remove_unused_columns=False, logging_strategy="no", **PROBE)  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=sets["train"])
    trainer.train()
    trainer.save_model(folder)
    seconds = time.perf_counter() - start
    from sklearn.metrics import average_precision_score

    scores = trainer.predict(sets["test"]).predictions
    return {"seconds": seconds, "mAP": float(average_precision_score(sets["test"].labels.numpy(), scores))}


def ours(data, epochs, folder, cache):
    from halflabel.share.trained import train
    from halflabel.training.features import keep_freed_memory
    from halflabel.training.recipe import parse_recipe

    keep_freed_memory()  # as the command line does
    start = time.perf_counter()
    flags = {**PROBE, "data": data, "output_dir": folder, "num_train_epochs": epochs, "report_to": "none",
             "feature_cache": cache, "head_ridge": "none", "save_strategy": "no"}  # fmt: skip
    result = train(parse_recipe("linear_probe", [f"--{key}={value}" for key, value in flags.items()]))
    return {"seconds": time.perf_counter() - start, "mAP": result.metrics["mAP"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", help="also write the table as JSON")
    parser.add_argument("--side", choices=("stock", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as folder:
            extra = (options.cache,) if options.side == "ours" else ()
            finish((ours if extra else stock)(options.table, options.epochs, folder, *extra))
        return
    found = {"stock": [], "halflabel, first run": [], "halflabel, features cached": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for side, made in found.items():
                known = {"table": options.data, "epochs": options.epochs, "cache": cache}
                made.append(run_side(__file__, "stock" if side == "stock" else "ours", **known))
    peer = median(found["stock"], "seconds")
    rows = [{"side": side, "seconds": median(made, "seconds"), "ratio": peer / median(made, "seconds"),
             "mAP": made[0]["mAP"]} for side, made in found.items()]  # fmt: skip
    show(rows, list(rows[0]), options.output)


if __name__ == "__main__":
    main()
