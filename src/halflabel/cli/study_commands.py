"""What the commands do that study data and trainings rather than one model."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..model.errors import HalflabelError
from .light import check_outputs, read_source


def run_advise(options: argparse.Namespace) -> int:
    """Say whether transfer and multi-task learning make sense for the data, on the terminal and as files."""
    import datasets

    from ..share.page import render_advice, write_report
    from ..studies.advice import advise
    from ..training.features import keep_freed_memory

    keep_freed_memory()
    datasets.disable_progress_bars()
    stem = Path(options.output)
    check_outputs(stem)
    advice = advise(
        [read_source(one) for one in options.data],
        image_folder=options.image_folder,
        uncertain_values=options.uncertain_values,
        contradictions=options.contradictions or "error",
        bad_images=options.bad_images,
        backbone=options.backbone,
        weights=options.weights,
        budget=options.budget,
    )
    print(render_advice(advice))
    print("written: " + ", ".join(str(path) for path in write_report(advice, stem)))
    failures = advice["transfer"]["failures"]
    if failures and not advice["transfer"]["backbones"]:
        raise HalflabelError(f"nothing was measured, as no backbone could be loaded: {failures[0]['reason']}")
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """Train recipes, print and save what they reach, and recommend one."""
    import datasets
    from transformers.utils import logging as transformers_logging

    from ..studies.compare import compare, render_comparison
    from ..training.features import keep_freed_memory

    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    report = compare(
        options.recipes,
        [read_source(one) for one in options.data],
        image_folder=options.image_folder,
        uncertain_values=options.uncertain_values,
        contradictions=options.contradictions or "error",
        backbone=options.backbone,
        weights=options.weights,
        seeds=options.seeds,
        output=options.output,
    )
    print(render_comparison(report))
    print(f"saved to {options.output}")
    return 0


STUDIES: dict[str, Callable[[argparse.Namespace], int]] = {"advise": run_advise, "compare": run_compare}
