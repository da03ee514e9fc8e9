"""Does transfer make sense for these data, and does training the labels together? All that is measured, in one dict."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..data.loading import load_images
from ..model.errors import HalflabelError, did_you_mean
from ..training.cache import DEFAULT_FOLDER
from .advice_data import MIN_IMAGES, advise_data
from .multitask_advice import advise_multi_task
from .networks import BackboneFeatures, load_backbones
from .transfer_advice import advise_transfer

BUDGETS = ("quick", "full")


def advise(
    data: Any,  # noqa: ANN401 - what load_images takes
    *,
    backbone: str | Sequence[str] = ("tf_efficientnet_lite0",),
    weights: str = "hub",
    budget: str = "quick",
    **source: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Measure on a user's data what `data`, `transfer` and `multi_task` say, as a dict for JSON.

    Args:
        data: What `data.loading.load_images` takes. Pictures of the split `test` are left out: advice decides what is
            trained. Features are kept in the cache of Hugging Face.
        backbone: A timm name, or several to be ranked; of those that help, the one with the highest AUROC is asked
            about the labels together.
        weights: Where pretrained weights come from: `hub`, `installed` or a path.
        budget: `quick`: on features; `full`: networks are trained, too, which takes their time.
        source: Other arguments of `load_images`.

    Returns:
        `images`, `test_images_left_out`, `unreadable`, `backbones`, `weights`, `budget`, `seed`; `data`, see
        `advice_data`; `transfer`, see `transfer_advice`; `multi_task`, see `multitask_advice`. Undefined is None.

    Raises:
        HalflabelError: On another budget, no backbone, no images, or a picture that cannot be read.
    """
    backbones = [backbone] if isinstance(backbone, str) else list(dict.fromkeys(backbone))
    if budget not in BUDGETS:
        raise HalflabelError(f"budget {budget!r} is none of {', '.join(BUDGETS)}{did_you_mean(budget, BUDGETS)}")
    if not backbones:
        raise HalflabelError("no backbone is given: name at least one, like tf_efficientnet_lite0")
    images = load_images(data, **source)
    rest = images.select(np.flatnonzero(images.column("split") != "test"))
    if not len(rest):
        raise HalflabelError("there is no image outside the split 'test' to give advice from")
    told = advise_data(rest)
    loaded: dict[str, BackboneFeatures] = {}
    failures: list[dict[str, str]] = []
    if len(rest) >= MIN_IMAGES and any(row["learnable"] for row in told["labels"].values()):
        loaded, failures = load_backbones(rest, backbones, weights, DEFAULT_FOLDER)
    # The matrices are small: threads of linear algebra would wait for one another longer than they compute.
    with threadpool_limits(1, user_api="blas"):
        transfer = advise_transfer(rest, loaded, failures, budget)
        best = transfer["best_backbone"] or next(iter(loaded), None)
        shared = None if best is None else loaded[best]
        multi_task = advise_multi_task(rest, shared, told["balance"], budget)
    return {
        "images": len(rest), "test_images_left_out": len(images) - len(rest), "unreadable": list(images.skipped),
        "backbones": backbones, "weights": weights, "budget": budget, "seed": 0,
        "data": told, "transfer": transfer, "multi_task": multi_task,
    }  # fmt: skip
