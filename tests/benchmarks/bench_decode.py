"""Decode and transform photographs of 1920 x 1280 pixels: ours, and timm's evaluation transform after a plain decode.

    python tests/benchmarks/bench_decode.py [--photos FOLDER] [--output FILE.json]

All run in this process, one thread, interleaved over the rounds. Without a folder the photographs are made here: two
photographs that scikit-learn ships, enlarged, with fine noise of up to --noise grey levels, as JPEG of quality 90. The
more noise, the larger the files, and the more of the time goes into reading them, which no scale saves.
"""

import argparse
import io
import json
import statistics
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_model_data_config

from halflabel import TimmMultiLabelImageProcessor
from halflabel.model.image_processing_timm_multilabel import decode_image


def make_photos(count, noise, size=(1920, 1280)):
    rng = np.random.default_rng(0)
    photos = []
    for i in range(count):
        sample = Image.fromarray(load_sample_images().images[i % 2])
        left, top = rng.integers(0, 100), rng.integers(0, 60)
        crop = sample.crop((left, top, left + 540, top + 360)).resize(size, Image.Resampling.LANCZOS)
        pixels = np.asarray(crop).astype(np.int16) + rng.integers(-noise, noise + 1, (size[1], size[0], 3))
        content = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
        photos.append(content.getvalue())
    return photos


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--noise", type=int, default=3)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = timm.create_model(options.backbone, pretrained=False)
    processor = TimmMultiLabelImageProcessor.from_backbone(backbone)
    photos = (
        [path.read_bytes() for path in sorted(options.photos.glob("*.jpg"))[: options.count]]
        if options.photos
        else make_photos(options.count, options.noise)
    )
    ours_transform, side = processor.eval_transform(), processor.needed_side()
    peer_transform = create_transform(**resolve_model_data_config(backbone), is_training=False)
    ways = {
        "ours": lambda content: ours_transform(decode_image({"bytes": content}, shortest_side=side)),
        "ours, full decode": lambda content: ours_transform(decode_image({"bytes": content})),
        "timm after Image.open().convert('RGB')": lambda content: peer_transform(
            Image.open(io.BytesIO(content)).convert("RGB")
        ),
    }
    rates = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            for content in photos:
                way(content)
            rates[name].append(len(photos) / (time.perf_counter() - start))
    peer = "timm after Image.open().convert('RGB')"
    result = {
        "photos": len(photos),
        "mean size, kB": round(statistics.mean(map(len, photos)) / 1000),
        "images per second": {name: statistics.median(values) for name, values in rates.items()},
        "ours / peer": statistics.median(a / b for a, b in zip(rates["ours"], rates[peer], strict=True)),
    }
    print(f"{result['photos']} photographs of {result['mean size, kB']} kB")
    for name, rate in result["images per second"].items():
        print(f"{name:42} {rate:8.1f} images/s")
    print(f"{'ours / peer, median of the rounds':42} {result['ours / peer']:8.2f}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
