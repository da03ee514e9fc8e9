"""Which recipe for these data: all are trained and measured on held-out entries, and one is recommended."""

import json
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import write_whole
from ..data.loading import load_images
from ..data.pixels import sole_run
from ..decide.report import number
from ..metrics.entries import Floats, mean_defined
from ..metrics.intervals import mean_interval, mean_over_labels, percentile_interval
from ..metrics.report import json_ready
from ..model.errors import HalflabelError, shortlist
from ..training.folds import FOLDS
from ..training.preparation import hides_labels
from .compare_runs import Entrant, Run, RunLog, describe_comparison, parse_entrants, run_all, split_images

FEW = 20
"""With fewer known entries per label than this, on average, cross-validation cannot tell recipes apart."""

NEAR = 0.01
"""A recommended recipe whose mAP on test is this close to the best one's is called right."""

BY_AUROC = "mean of the AUROC of known entries and that of known yes against all other images"
BY_RULE = "rule of thumb"

# The losses from best to worst where only positives, or a handful of answers, are known: the measured table "Which loss
# for which kind of missing labels" in recipes/README.md, the mean of its columns "single positive" and "5 per label".
_FEW_ANSWERS = ("ll_r", "wan", "splc", "unknown: negative", "selective", "ll_ct", "bce", "em", "asl", "focal")

_COLUMNS, _WIDEST_NAME = 120, 48


def compare(
    recipes: str | Sequence[str],
    data: Any,  # noqa: ANN401 - what load_images takes
    *,
    backbone: str | None = None,
    weights: str | None = None,
    seeds: int = 3,
    output: str | Path = "comparison",
    **source: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Train recipes on cached features, measure them, and recommend one.

    Known entries are held out in `FOLDS` folds, groups whole. Recipes that hide labels (`keep_labels`,
    `hide_per_label` ...; all of them alike) are also measured on the test split, which has no part in the
    recommendation. A comparison that was stopped goes on where it was.

    Args:
        recipes: Names or paths, with overrides behind them as on the command line: `linear_probe --loss em`.
        data: Annotated pictures, see `load_images`.
        backbone: In the place of the recipes' own.
        weights: Likewise.
        seeds: How often each recipe is trained; the seeds are 0, 1, 2 ...
        output: The folder for `compare.md`, `compare.json` and `runs.jsonl`, which holds every run.
        source: Other arguments of `load_images`.

    Returns:
        What `compare.json` holds, see `report_comparison`; `render_comparison` shows it.

    Raises:
        HalflabelError: On recipes that cannot be compared, or data on which nothing can be measured.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise HalflabelError(f"--output {output}: it is a file; name a folder")
    if seeds < 1:
        raise HalflabelError(f"seeds is {seeds}, expected at least 1")
    with tempfile.TemporaryDirectory() as temporary, sole_run(folder):
        entrants = parse_entrants(
            [recipes] if isinstance(recipes, str) else recipes, Path(temporary), backbone, weights
        )
        images = load_images(data, **source)
        images = split_images(images, entrants[0].recipe)
        folder.mkdir(parents=True, exist_ok=True)
        runs = RunLog(folder / "runs.jsonl", describe_comparison(entrants, images))
        found = run_all(entrants, images, seeds, runs)
    sources = sorted(set(images.column("source").tolist()))
    report = {"data": sources, **report_comparison(found, entrants, images.label_space.names)}
    write_whole(folder / "compare.json", json.dumps(report, indent=1) + "\n")
    write_whole(folder / "compare.md", render_comparison(report, markdown=True) + "\n")
    return report


@dataclass(frozen=True)
class Verdict:
    """A recommended recipe: its name as it was given, a sentence that says why, and `BY_AUROC` or `BY_RULE`."""

    recipe: str
    reason: str
    by: str


def choose(
    entrants: Sequence[Entrant], known_per_label: float, judged: Mapping[str, Floats], resampled: Mapping[str, Floats]
) -> Verdict:
    """Recommend the recipe that is judged best, or, where too little is known to judge, by the rule of thumb.

    The best one is taken even where it does not stand clear of an earlier one, which the reason says. To prefer the
    earlier within one standard error was right in 9 of 12 settings of `tests/benchmarks/bench_compare.py`, the best in
    all, and in 23 against 33 of 36 for single seeds.

    Args:
        entrants: In the order in which they were given; of equals, the first is taken.
        known_per_label: How many known training entries a label has, on average.
        judged: By recipe, the values of `compare_runs.judge` per seed, shape (seeds,).
        resampled: By recipe, of the resamples, shape (seeds, samples).
    """
    values = {one.name: mean_defined(judged[one.name]) for one in entrants}
    if known_per_label < FEW:
        return _by_rule(entrants, f"{known_per_label:.3g} known entries per label are too few to cross-validate")
    if any(np.isnan(value) for value in values.values()):
        return _by_rule(entrants, "no label can be ranked on held-out entries")
    best, *others = sorted(values, key=lambda name: -values[name])
    reason = f"held-out AUROC {values[best]:.3f}"
    if others:
        low, high = _bootstrap(resampled[best] - resampled[others[0]])
        clear = "" if low > 0 else ", not clearly"
        reason += f", {values[best] - values[others[0]]:.3f} above {others[0]}{clear} ({low:+.3f} to {high:+.3f})"
    return Verdict(best, reason, BY_AUROC)


def _bootstrap(differences: Floats) -> Floats:
    """Return the interval of the mean over seeds of resampled differences (seeds, samples)."""
    return percentile_interval(mean_over_labels(differences.T))


def _by_rule(entrants: Sequence[Entrant], why: str) -> Verdict:
    """Take the recipe whose objective is the highest in the measured table."""
    objectives = {one.name: _objective(one) for one in entrants}
    best = min(objectives, key=lambda name: _FEW_ANSWERS.index(objectives[name]))
    reason = f"{why}; of these objectives {objectives[best]} did best with few answers, see recipes/README.md"
    return Verdict(best, reason, BY_RULE)


def _objective(entrant: Entrant) -> str:
    loss, unknown = entrant.recipe.model.loss, entrant.recipe.data.unknown
    return "unknown: negative" if (loss, unknown) == ("bce", "negative") else str(loss)


def report_comparison(runs: Sequence[Run], entrants: Sequence[Entrant], label_names: Sequence[str]) -> dict[str, Any]:
    """Sum runs up, for JSON; undefined is None.

    Args:
        runs: All of them, the same seeds for every recipe.
        entrants: The recipes, in the order in which they were given.
        label_names: The labels.

    Returns:
        `seeds`, `folds`, `known_per_label`; `recipes` with held-out mAP, the value that judges them and its difference
        to the first recipe; `undefined_held_out`, labels; `recommended` with its reason. Where labels were hidden also
        the mAP on test, `undefined_on_test`, and how far the recommended recipe is below the best there.
    """
    by_recipe = {one.name: [run for run in runs if run.recipe == one.name] for one in entrants}
    held_out, test, judged = ({name: _values(made, kind) for name, made in by_recipe.items()}
                              for kind in ("held_out_ap", "test_ap", "judged"))  # fmt: skip
    resampled = {name: np.array([run.resampled for run in made], dtype=float) for name, made in by_recipe.items()}
    first, made, hidden = entrants[0].name, by_recipe[entrants[0].name], hides_labels(entrants[0].recipe.data)
    rows: dict[str, Any] = {}
    for name in by_recipe:
        rows[name] = {
            "held_out_mAP": _spread(held_out[name]),
            "judged": _spread(judged[name]),
            "judged_minus_first": {
                "mean": json_ready(mean_defined(judged[name] - judged[first])),
                "interval": json_ready(_bootstrap(resampled[name] - resampled[first])),
            },
        }
        if hidden:
            differences = test[name] - test[first]
            interval = json_ready(mean_interval(differences))
            rows[name]["test_mAP"] = _spread(test[name])
            rows[name]["test_minus_first"] = {"mean": json_ready(mean_defined(differences)), "interval": interval}
    known = float(np.mean([run.known_per_label for run in made]))
    verdict = choose(entrants, known, judged, resampled)
    recommended: dict[str, Any] = {"recipe": verdict.recipe, "by": verdict.by, "reason": verdict.reason}
    if hidden:
        reached = {name: mean_defined(values) for name, values in test.items()}
        best = max(reached, key=lambda name: reached[name])
        below = reached[best] - reached[verdict.recipe]
        recommended |= {"best_on_test": best, "below_best": json_ready(below), "right": bool(below <= NEAR)}
    return {
        "seeds": len(made),
        "folds": FOLDS,
        "known_per_label": known,
        "recipes": rows,
        "undefined_on_test": _undefined(made, "test_ap", label_names) if hidden else [],
        "undefined_held_out": _undefined(made, "held_out_ap", label_names),
        "recommended": recommended,
    }


def _values(runs: Sequence[Run], kind: str) -> Floats:
    """Return one value per seed: the mean over labels, of what is defined."""
    found = [np.array(getattr(run, kind), dtype=float) for run in runs]
    return np.array([mean_defined(np.atleast_1d(values)) for values in found])


def _spread(values: Floats) -> dict[str, Any]:
    defined = values[~np.isnan(values)]
    sd = float(defined.std(ddof=1)) if len(defined) > 1 else None
    found: dict[str, Any] = json_ready({"mean": mean_defined(values), "sd": sd, "values": values})
    return found


def _undefined(runs: Sequence[Run], kind: str, label_names: Sequence[str]) -> list[str]:
    """Return the labels whose average precision is undefined for some seed; it is so for every recipe alike."""
    missing = np.isnan(np.array([getattr(run, kind) for run in runs], dtype=float)).any(axis=0)
    return [name for name, gone in zip(label_names, missing, strict=True) if gone]


def render_comparison(report: Mapping[str, Any], markdown: bool = False) -> str:
    """Return a table, what is undefined, and the recommendation; at most 120 columns in a terminal."""
    chosen = report["recommended"]
    hidden = "right" in chosen
    title = f"{report['known_per_label']:.0f} known training entries per label, {report['seeds']} seed(s)"
    kind, minus = ("test", "test_minus_first") if hidden else ("held_out", "judged_minus_first")
    head = ["recipe", f"{kind.replace('_', '-')} mAP", "held-out AUROC",
            "test mAP minus the first" if hidden else "AUROC minus the first"]  # fmt: skip
    rows = []
    for i, (name, row) in enumerate(report["recipes"].items()):
        difference = "" if i == 0 else _interval(row[minus])
        rows.append([name, _with_sd(row[f"{kind}_mAP"]), number(row["judged"]["mean"]), difference])
    notes = []
    for what, key in (("on test", "undefined_on_test"), ("held out", "undefined_held_out")):
        if report[key]:
            notes.append(f"labels with undefined AP {what}: {len(report[key])} ({shortlist(report[key])})")
    told = f"recommended: {chosen['recipe']} ({chosen['reason']})"
    if hidden and chosen["below_best"] is not None:
        below = chosen["below_best"]
        told += "; on test it is the best" if below == 0 else f"; on test {below:.3f} below {chosen['best_on_test']}"
    intervals = "t intervals over seeds" if hidden else "bootstrap intervals over images"
    notes += [told, f"mean ± sd over seeds; differences are paired, with 95 % {intervals}; held-out AUROC: {BY_AUROC}, "
                    f"in {report['folds']} folds, groups whole"]  # fmt: skip
    if markdown:
        table = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
        return "\n".join([f"**{title}**", "", *table, *(text for note in notes for text in ("", note))])
    names = [_shorten(row[0]) for row in (head, *rows)]
    width = max(len(name) for name in names)
    table = [
        f"  {name:{width}} {row[1]:>17} {row[2]:>15} {row[3]:>31}"
        for name, row in zip(names, (head, *rows), strict=True)
    ]
    return "\n".join(part for line in (title, *table, *notes) for part in _wrap(line))


def _wrap(line: str) -> list[str]:
    if len(line) <= _COLUMNS:
        return [line]
    return textwrap.wrap(line, _COLUMNS, subsequent_indent="    ", break_on_hyphens=False)


def _shorten(name: str) -> str:
    """Keep the end of a long name: the overrides stand there, in which recipes differ."""
    return name if len(name) <= _WIDEST_NAME else f"…{name[1 - _WIDEST_NAME :]}"


def _with_sd(spread: Mapping[str, Any]) -> str:
    if spread["mean"] is None:
        return "undefined"
    return f"{spread['mean']:.3f}" + ("" if spread["sd"] is None else f" ± {spread['sd']:.3f}")


def _interval(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "undefined"
    low, high = found["interval"]
    ends = "interval undefined" if low is None else f"{low:+.3f} to {high:+.3f}"
    return f"{found['mean']:+.3f} ({ends})"
