"""Backbone features: each picture goes through the frozen network once."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .data import PixelDataset, collate
from .modeling_timm_multilabel import TimmMultiLabelForImageClassification


@torch.inference_mode()
def extract_features(
    model: TimmMultiLabelForImageClassification,
    dataset: PixelDataset,
    batch_size: int = 32,
    workers: int = 0,
    title: str = "features",
    quiet: bool = False,
) -> Tensor:
    """Return the features of all pictures, float32 on the CPU, shape (n, width), in the order of the images.

    Args:
        model: Put in evaluation mode; run on its own device.
        dataset: The pictures with the evaluation transform.
        batch_size: Pictures at once.
        workers: Processes that decode; 0: none beside this one.
        title: Shown at the progress bar.
        quiet: Show no progress bar.
    """
    model.train(False)
    device = model.device
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate)
    parts = []
    with tqdm(total=len(dataset), desc=title, unit="image", disable=quiet) as progress:
        for batch in loader:
            # channels_last is the faster layout of convolutions on the CPU and on recent GPUs
            pixels = batch["pixel_values"].to(device, memory_format=torch.channels_last)
            parts.append(model.extract_features(pixels).float().cpu())
            progress.update(len(pixels))
    return torch.cat(parts)
