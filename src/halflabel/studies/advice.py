"""Does transfer make sense for these data, and does training the labels together? All that is measured, in one dict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..data.images import AnnotatedImages
from ..data.loading import load_images
from ..model.errors import HalflabelError, did_you_mean
from ..training.cache import DEFAULT_FOLDER
from .advice_data import MIN_IMAGES, advise_data
from .multitask_advice import advise_multi_task
from .networks import BackboneFeatures, load_backbones
from .transfer_advice import advise_transfer

BUDGETS = ("quick", "full")


def advise(
    data: Any,  # noqa: ANN401 - whatever `load_images` takes
    *,
    backbone: str | Sequence[str] = ("tf_efficientnet_lite0",),
    weights: str = "hub",
    budget: str = "quick",
    **source: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Load data and measure what `advise_images` measures; features are kept in the cache of Hugging Face.

    Args:
        data: Annotated pictures, see `load_images`.
        backbone: A timm name, or several to be ranked.
        weights: Where pretrained weights come from: hub, installed or a path.
        budget: quick: on features; full: networks are trained, too.
        source: Other arguments of `load_images`.

    Raises:
        HalflabelError: On a fault of the data or the arguments.
    """
    backbones = [backbone] if isinstance(backbone, str) else backbone
    return advise_images(load_images(data, **source), backbones, weights, budget, DEFAULT_FOLDER)


def advise_images(
    images: AnnotatedImages,
    backbones: Sequence[str],
    weights: str = "hub",
    budget: str = "quick",
    folder: str | Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure on a user's data what `data`, `transfer` and `multi_task` say, as a dict for JSON.

    Args:
        images: Pictures with labels. Those of the split `test` are left out: advice decides what is trained.
        backbones: timm names; of those that help, the one with the highest AUROC is asked about the labels together.
        weights: Where pretrained weights come from: `hub`, `installed` or a path.
        budget: `quick`: on features; `full`: networks are trained, too, which takes their time.
        folder: Where features are kept; None: in memory only.
        seed: Of everything that is drawn.
        quiet: Show no progress bars.

    Returns:
        `images`, `test_images_left_out`, `unreadable`, `backbones`, `weights`, `budget`, `seed`; `data`, see
        `advice_data`; `transfer`, see `transfer_advice`; `multi_task`, see `multitask_advice`. Undefined is None.

    Raises:
        HalflabelError: On another budget, no backbone, no images, or a picture that cannot be read.
    """
    if budget not in BUDGETS:
        raise HalflabelError(f"budget {budget!r} is none of {', '.join(BUDGETS)}{did_you_mean(budget, BUDGETS)}")
    if not backbones:
        raise HalflabelError("no backbone is given: name at least one, like tf_efficientnet_lite0")
    rest = images.select(np.flatnonzero(images.column("split") != "test"))
    if not len(rest):
        raise HalflabelError("there is no image outside the split 'test' to give advice from")
    data = advise_data(rest)
    loaded: dict[str, BackboneFeatures] = {}
    failures: list[dict[str, str]] = []
    if len(rest) >= MIN_IMAGES and any(row["learnable"] for row in data["labels"].values()):
        loaded, failures = load_backbones(rest, backbones, weights, folder, seed, quiet=quiet)
    # The matrices are small: threads of linear algebra would wait for one another longer than they compute.
    with threadpool_limits(1, user_api="blas"):
        transfer = advise_transfer(rest, loaded, failures, budget, seed, quiet)
        best = transfer["best_backbone"] or next(iter(loaded), None)
        shared = None if best is None else loaded[best]
        multi_task = advise_multi_task(rest, shared, data["balance"], budget, seed, quiet)
    return {
        "images": len(rest), "test_images_left_out": len(images) - len(rest), "unreadable": list(images.skipped),
        "backbones": list(dict.fromkeys(backbones)), "weights": weights, "budget": budget, "seed": seed,
        "data": data, "transfer": transfer, "multi_task": multi_task,
    }  # fmt: skip
