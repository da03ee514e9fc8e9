"""What the commands do that study data and trainings rather than one model."""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..model.errors import HalflabelError
from .light import check_outputs, read_source


def run_advise(options: argparse.Namespace) -> int:
    """Say whether transfer and multi-task learning make sense for the data, on the terminal and as files."""
    import datasets

    from ..data.loading import load_images
    from ..share.page import render_advice, write_report
    from ..studies.advice import advise
    from ..training.cache import DEFAULT_FOLDER
    from ..training.features import keep_freed_memory

    keep_freed_memory()
    datasets.disable_progress_bars()
    stem = Path(options.output)
    check_outputs(stem)
    images = load_images(
        [read_source(one) for one in options.data],
        options.image_folder,
        uncertain_values=options.uncertain_values,
        contradictions=options.contradictions or "error",
        bad_images=options.bad_images,
    )
    advice = advise(
        images, options.backbone, options.weights, options.budget, DEFAULT_FOLDER, unreadable=images.skipped
    )
    print(render_advice(advice))
    print("written: " + ", ".join(str(path) for path in write_report(advice, stem)))
    failures = advice["transfer"]["failures"]
    if failures and not advice["transfer"]["backbones"]:
        raise HalflabelError(f"nothing was measured, as no backbone could be loaded: {failures[0]['reason']}")
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """Train recipes under kinds of missing labels, print and save what they reach, and recommend one."""
    import datasets
    from transformers.utils import logging as transformers_logging

    from ..data.loading import load_images
    from ..studies.compare import RunLog, describe_comparison, run_all, split_images
    from ..studies.compare_report import render_comparison, report_comparison
    from ..studies.compare_settings import make_settings, parse_entrants
    from ..training.features import keep_freed_memory

    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    output = Path(options.output)
    if output.exists() and not output.is_dir():
        raise HalflabelError(f"--output {options.output}: it is a file; name a folder")
    with tempfile.TemporaryDirectory() as folder:
        entrants = parse_entrants(options.recipes, options.data, Path(folder), options.backbone, options.weights)
        images = load_images(
            entrants[0].recipe.data.data,
            options.image_folder,
            uncertain_values=options.uncertain_values,
            contradictions=options.contradictions or "error",
        )
        settings = make_settings(
            options.protocol, options.keep, options.per_label, _read_teams(options.groups), images.label_space
        )
        images = split_images(images, settings, entrants[0].recipe.data.test_share)
        output.mkdir(parents=True, exist_ok=True)
        runs = RunLog(output / "runs.jsonl", describe_comparison(entrants, settings, images))
        found = run_all(entrants, settings, images, options.seeds, runs)
    report = {"data": options.data, **report_comparison(found, entrants, settings, images.label_space.names)}
    (output / "compare.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (output / "compare.md").write_text(render_comparison(report, markdown=True) + "\n", encoding="utf-8")
    print(render_comparison(report))
    print(f"saved to {output}")
    return 0


def _read_teams(given: str | None) -> Mapping[str, Any] | None:
    """Read the teams of protocol by_group."""
    if given is None:
        return None
    try:
        teams = json.loads(given)
    except json.JSONDecodeError as error:
        raise HalflabelError(f"--groups: {given!r} is not JSON: {error}") from error
    if not isinstance(teams, dict) or not all(isinstance(names, list) for names in teams.values()):
        raise HalflabelError('--groups is a mapping of teams to lists of labels, like {"first": ["cat"]}')
    return teams


STUDIES: dict[str, Callable[[argparse.Namespace], int]] = {"advise": run_advise, "compare": run_compare}
