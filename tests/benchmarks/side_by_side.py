"""What the benchmarks of speed share: every side runs in a process of its own; a table and JSON come out."""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

LARGE = (1920, 1280)


def side_parser(about, sides):
    """Return a parser of what the benchmarks of two backbones take; the hidden options are for one side's process."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", default=["tf_efficientnet_lite0", "resnet18"])
    parser.add_argument("--output", help="also write the table as JSON")
    parser.add_argument("--side", choices=sides, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    return parser


def run_side(script, side, **options):
    """Run one side of a script in a new process and return what it prints last, a JSON mapping."""
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    done = subprocess.run([sys.executable, script, "--side", side, *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def finish(found):
    """Print what a side found, as its last line."""
    print("\n" + json.dumps(found), flush=True)


def median(rounds, key):
    return statistics.median(one[key] for one in rounds)


def show(rows, columns, output=None):
    """Print rows as a table, and write them as JSON."""
    cells = [[format_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(columns)]
    for line in (columns, *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
    if output:
        Path(output).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def format_cell(value):
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 10 else f"{value:.1f}" if isinstance(
        value, float
    ) else str(value)  # fmt: skip


def copy_pictures(data, folder, count, large):
    """Write the first so many training pictures as JPEG, enlarged if asked, with a table of their labels."""
    table = pd.read_csv(data)
    table = table[table.split == "train"].head(count) if "split" in table else table.head(count)
    images = data.parent / "images" if (data.parent / "images").is_dir() else data.parent
    folder.mkdir(parents=True)
    names, rng = [], np.random.default_rng(0)
    for number, name in enumerate(table.file_name):
        with Image.open(images / name) as picture:
            picture = picture.convert("RGB")
            if large:
                picture = picture.resize(LARGE, Image.Resampling.BICUBIC)
                noise = rng.normal(0, 3, (*LARGE[::-1], 1))  # fine grain as of a sensor, without which files are tiny
                picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
            names.append(f"{number:05}.jpg")
            picture.save(folder / names[-1], quality=90)
    table = table.assign(file_name=names, split="train")
    table.to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"
