"""What the commands do that study data and trainings rather than one model."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .command_line import check_outputs, read_source


def run_advise(options: argparse.Namespace) -> int:
    """Say whether transfer and multi-task learning make sense for the data, on the terminal and as files."""
    import datasets

    from .advice import advise
    from .advice_report import write_report
    from .advice_summary import render_advice
    from .allocator import keep_freed_memory
    from .feature_cache import DEFAULT_FOLDER
    from .preparation import leave_out_unreadable
    from .sources import load_source

    keep_freed_memory()
    datasets.disable_progress_bars()
    stem = Path(options.output)
    check_outputs(stem)
    images = load_source(
        [read_source(one) for one in options.data],
        options.image_folder,
        uncertain_values=options.uncertain_values,
        contradictions=options.contradictions or "error",
    )
    images, unreadable = leave_out_unreadable(images) if options.bad_images == "skip" else (images, ())
    advice = advise(images, options.backbone, options.weights, options.budget, DEFAULT_FOLDER, unreadable=unreadable)
    print(render_advice(advice))
    print("written: " + ", ".join(str(path) for path in write_report(advice, stem)))
    return 0


STUDIES: dict[str, Callable[[argparse.Namespace], int]] = {"advise": run_advise}
