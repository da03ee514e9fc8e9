"""Scores of a folder of pictures, beside `pipeline("image-classification")` at its best, and beside two limits.

    python tests/benchmarks/bench_predict.py labels.csv [--images 256] [--rounds 3] [--backbones A B] [--output FILE]

Pictures as they are, and enlarged to 1920 x 1280. The pipeline holds the same network as a plain timm wrapper; batch
sizes 1 to 64, from a list of paths and from a data set, are tried once, and the best is run again in every round.
Images per second leave out the loading of the model. Limits, with all cores each: decoding and transforming alone, and
the network alone on pixels in memory. Both need the same cores, so that a program which wastes nothing takes the sum of
their times; the larger of the two is the bound that assumes the other is free. `difference` is how far scores are from
those of the plain path (full decode, the model as it is), on average.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from side_by_side import copy_pictures, finish, median, run_side, show, side_parser

LABELS = ["a", "b", "c", "d"]
WARM = 32  # pictures that each side has seen before its time is taken
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def save_models(backbone, folder):
    """Write the same network twice: as our model, and as a plain timm wrapper."""
    from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor
    from halflabel.share.export import export

    torch.manual_seed(0)
    weights = "installed" if "lite0" in backbone else None
    model = TimmMultiLabelForImageClassification.from_backbone(backbone, LABELS, weights=weights)
    model.save_pretrained(folder / "ours")
    TimmMultiLabelImageProcessor.from_backbone(model.backbone).save_pretrained(folder / "ours")
    export(folder / "ours", folder / "stock", "timm")


def pictures(table):
    return sorted(str(path) for path in table.parent.glob("*.jpg"))


class Files(torch.utils.data.Dataset):
    """Paths as a data set, which the pipeline's documentation recommends."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.files[i]


def stock(table, models, batch):
    """Run the pipeline with one setting; with None, with all of them."""
    from transformers import pipeline

    files = pictures(table)
    classify = pipeline("image-classification", str(models / "stock"), device="cpu", function_to_apply="sigmoid")
    found = {}
    for setting in (
        [f"{kind}:{size}" for kind in ("list", "dataset") for size in BATCHES] if batch == "all" else [batch]
    ):
        kind, size = setting.split(":")
        list(classify(Files(files[:WARM]), batch_size=int(size)))
        start = time.perf_counter()
        answers = list(classify(files if kind == "list" else Files(files), batch_size=int(size), top_k=len(LABELS)))
        found[setting] = len(files) / (time.perf_counter() - start)
        assert len(answers) == len(files)
    return {"images/s": max(found.values()), "tried": found}


def ours(table, models, batch):
    from halflabel.training.features import keep_freed_memory
    from halflabel.use.predict import Scorer, score_to

    keep_freed_memory()
    files, scorer = pictures(table), Scorer(str(models / "ours"))
    scorer.score(files[:WARM])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        scored, _ = score_to(scorer, files, f"{folder}/scores.csv")
        seconds = time.perf_counter() - start
    assert scored == len(files)
    return {"images/s": len(files) / seconds, "difference": difference(files, models)}


def difference(files, models):
    """Return how far scores of the fast path are from the plain one, on average."""
    from PIL import Image

    from halflabel.use.inference import open_model
    from halflabel.use.predict import predict

    frame = predict(models / "ours", files)
    saved = open_model(models / "ours")
    model, processor = saved.model, saved.processor
    plain = []
    with torch.no_grad():
        for file in files:
            with Image.open(file) as picture:
                plain.append(model(**processor(picture.convert("RGB"))).logits.sigmoid()[0].numpy())
    return float(np.abs(frame[LABELS].to_numpy() - np.array(plain)).mean())


def decode(table, models, batch):
    from concurrent.futures import ThreadPoolExecutor

    from halflabel.use.predict import Scorer, decode_image

    files, scorer = pictures(table), Scorer(str(models / "ours"))
    torch.set_num_threads(1)

    def read(file):
        return scorer.transform(decode_image({"path": file}, shortest_side=scorer.side)).sum()

    start = time.perf_counter()
    with ThreadPoolExecutor(torch.multiprocessing.cpu_count()) as pool:
        list(pool.map(read, files))
    return {"images/s": len(files) / (time.perf_counter() - start)}


def network(table, models, batch):
    from halflabel.training.features import keep_freed_memory, run_in_threads
    from halflabel.use.predict import Scorer

    keep_freed_memory()
    files, scorer = pictures(table), Scorer(str(models / "ours"))
    pixels = torch.randn(scorer.batch_size, 3, 224, 224)
    steps = len(files) // scorer.batch_size
    list(run_in_threads(lambda _: scorer.network(pixels), range(4), scorer.model.device))
    start = time.perf_counter()
    list(run_in_threads(lambda _: scorer.network(pixels), range(steps), scorer.model.device))
    return {"images/s": steps * scorer.batch_size / (time.perf_counter() - start)}


SIDES = {"stock": stock, "ours": ours, "decode": decode, "network": network}


def measure(table, models, rounds):
    known = {"table": table, "models": models}
    tried = run_side(__file__, "stock", batch="all", **known)["tried"]
    best = max(tried, key=tried.get)
    found = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, made in found.items():
            made.append(run_side(__file__, side, batch=best, **known))
    speed = {side: median(made, "images/s") for side, made in found.items()}
    both = 1 / (1 / speed["decode"] + 1 / speed["network"])
    return {"pipeline": speed["stock"], "its best": best, "ours": speed["ours"],
            "to it": speed["ours"] / speed["stock"], "decode": speed["decode"], "network": speed["network"],
            "to the lower": speed["ours"] / min(speed["decode"], speed["network"]), "to both": speed["ours"] / both,
            "difference": found["ours"][0]["difference"], "tried": tried}  # fmt: skip


def main():
    parser = side_parser(__doc__, SIDES)
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        finish(SIDES[options.side](options.table, options.models, options.batch))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for large in (False, True):
            table = copy_pictures(options.data, Path(name, f"large-{large}"), options.images, large)
            for backbone in options.backbones:
                models = Path(name, backbone)
                if not models.is_dir():
                    save_models(backbone, models)
                kind = "1920x1280" if large else "as they are"
                rows.append({"backbone": backbone, "pictures": kind, **measure(table, models, options.rounds)})
        show(rows, [key for key in rows[0] if key != "tried"], options.output)


if __name__ == "__main__":
    main()
