"""Compute features in a process of its own, or in two."""

import time

import torch
import xxhash
from accelerate import PartialState

from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor
from halflabel.data.loading import load_images
from halflabel.data.pixels import PixelDataset
from halflabel.training import features
from halflabel.training.features import Views


def make(table):
    """Return a model and two views of each picture, the same in every process."""
    torch.manual_seed(0)
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["red", "blue"], weights=None)
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    images = load_images(table)
    both = [PixelDataset(images, transform) for transform in (processor.eval_transform(), processor.train_transform())]
    return model, Views(*both, views=2)


def print_features(table, shard_rows, seconds, *folders):
    """Print a hash of the features for each folder (None: in memory), and wait so long at every batch."""
    state = PartialState(cpu=True)
    model, views = make(table)
    model.backbone.conv1[0].register_forward_hook(lambda *_: time.sleep(seconds))
    features.SHARD_ROWS = shard_rows
    for folder in folders:
        rows = features.cached_features(model, views, folder, batch_size=4, quiet=True)
        print(f"rank {state.process_index}: {tuple(rows.shape)} {hash_rows(rows)}\n", end="", flush=True)


def hash_rows(rows):
    return xxhash.xxh3_64_hexdigest(rows.contiguous().numpy().tobytes())
