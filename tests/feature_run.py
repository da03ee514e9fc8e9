"""Compute features in a process of its own; started by test_features.py, also under torchrun.

`feature_run.py TABLE SHARD_ROWS SECONDS FOLDER ...` waits so long at every batch, and prints a hash of the features
for each folder (`none`: in memory).
"""

import sys
import time

import torch
import xxhash
from accelerate import PartialState

from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor, features
from halflabel.data import PixelDataset
from halflabel.feature_views import Views
from halflabel.sources import read_table


def make(table):
    """Return a model and two views of each picture, the same in every process."""
    torch.manual_seed(0)
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["red", "blue"], weights=None)
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    images = read_table(table)
    both = [PixelDataset(images, transform) for transform in (processor.eval_transform(), processor.train_transform())]
    return model, Views(*both, views=2)


def main(table, shard_rows, seconds, *folders):
    state = PartialState(cpu=True)
    model, views = make(table)
    model.backbone.conv1[0].register_forward_hook(lambda *_: time.sleep(float(seconds)))
    features.SHARD_ROWS = int(shard_rows)
    for folder in folders:
        rows = features.cached_features(model, views, None if folder == "none" else folder, batch_size=4, quiet=True)
        print(f"rank {state.process_index}: {tuple(rows.shape)} {hash_rows(rows)}\n", end="", flush=True)
    if state.num_processes > 1:
        torch.distributed.destroy_process_group()


def hash_rows(rows):
    return xxhash.xxh3_64_hexdigest(rows.contiguous().numpy().tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
