"""Time `from_pretrained` of a folder against `timm.create_model` and `load_state_dict` of the same weights.

Bar: at most 1.15 times as long, for tf_efficientnet_lite0 with ten labels, median of interleaved rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from halflabel import TimmMultiLabelForImageClassification

BACKBONE, LABELS = "tf_efficientnet_lite0", [f"label {i}" for i in range(10)]


def write(folder):
    """Write the same weights twice: as our model, and as a timm checkpoint."""
    ours = TimmMultiLabelForImageClassification.from_backbone(BACKBONE, LABELS, weights=None).eval()
    ours.save_pretrained(folder / "ours")
    state = {key.removeprefix("backbone."): value for key, value in ours.state_dict().items() if "backbone." in key}
    state |= {"classifier.weight": ours.head.linear.weight.detach(), "classifier.bias": ours.head.linear.bias.detach()}
    save_file(state, folder / "timm.safetensors")


def load_ours(folder):
    return TimmMultiLabelForImageClassification.from_pretrained(folder / "ours")


def load_timm(folder):
    model = timm.create_model(BACKBONE, num_classes=len(LABELS))
    model.load_state_dict(load_file(folder / "timm.safetensors"))
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    times = {load_ours: [], load_timm: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        pixels = torch.rand(2, 3, 224, 224)
        with torch.inference_mode():
            torch.testing.assert_close(load_ours(folder)(pixels).logits, load_timm(folder)(pixels))
        for _ in range(rounds):
            for load, measured in times.items():
                start = time.perf_counter()
                load(folder)
                measured.append(time.perf_counter() - start)
    ours, peer = (1000 * statistics.median(measured) for measured in times.values())
    print(f"from_pretrained {ours:.1f} ms, create_model and load_state_dict {peer:.1f} ms, ratio {ours / peer:.2f}")


if __name__ == "__main__":
    main()
