"""What `compare` found: means, paired differences and the recommended recipe, for the terminal and for files."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..decide.report import number
from ..metrics.entries import mean_defined
from ..metrics.intervals import mean_over_labels, percentile_interval
from ..metrics.report import json_ready
from ..model.errors import shortlist
from .compare import FOLDS, Run
from .compare_choice import BY_AUROC, choose
from .compare_settings import Entrant, Setting

_COLUMNS, _WIDEST_NAME = 120, 48

NEAR = 0.01
"""A recommended recipe whose mAP on test is this close to the best one's is called right."""

Floats = NDArray[np.float64]


def report_comparison(
    runs: Sequence[Run], entrants: Sequence[Entrant], settings: Sequence[Setting], label_names: Sequence[str]
) -> dict[str, Any]:
    """Sum runs up, for JSON; undefined is None.

    Args:
        runs: All runs of all settings, the same seeds for every recipe.
        entrants: The recipes, in the order in which they were given.
        settings: The kinds of missing labels.
        label_names: The labels.
    """
    parts = [_report_setting(runs, entrants, setting, label_names) for setting in settings]
    chosen = [part["recommended"]["recipe"] for part in parts]
    names = [one.name for one in entrants]
    overall = max(names, key=lambda name: (chosen.count(name), -names.index(name)))
    right = [part["recommended"]["right"] for part in parts if "right" in part["recommended"]]
    return {
        "recipes": names,
        "seeds": len({run.seed for run in runs}),
        "folds": FOLDS,
        "settings": parts,
        "recommended": {"recipe": overall, "settings": chosen.count(overall), "of": len(parts)},
        "right": {"settings": sum(right), "of": len(right), "within": NEAR} if right else None,
    }


def _report_setting(
    runs: Sequence[Run], entrants: Sequence[Entrant], setting: Setting, label_names: Sequence[str]
) -> dict[str, Any]:
    """Sum up one setting."""
    by_recipe = {one.name: [run for run in runs if (run.setting, run.recipe) == (setting.name, one.name)]
                 for one in entrants}  # fmt: skip
    held_out, test, judged = ({name: _values(made, kind) for name, made in by_recipe.items()}
                              for kind in ("held_out_ap", "test_ap", "judged"))  # fmt: skip
    resampled = {name: np.array([run.resampled for run in made], dtype=float) for name, made in by_recipe.items()}
    first, made = entrants[0].name, next(iter(by_recipe.values()))
    known = float(np.mean([run.known_per_label for run in made]))
    rows: dict[str, Any] = {}
    for name in by_recipe:
        rows[name] = {"held_out_mAP": _spread(held_out[name]), "judged": _spread(judged[name])}
        if setting.hiding is not None:
            rows[name]["test_mAP"] = _spread(test[name])
            rows[name]["test_minus_first"] = _t_interval(test[name] - test[first])
        low, high = percentile_interval(mean_over_labels((resampled[name] - resampled[first]).T))
        difference = mean_defined(judged[name] - judged[first])
        rows[name]["judged_minus_first"] = {"mean": json_ready(difference), "interval": _pair(low, high)}
    verdict = choose(entrants, known, judged, resampled)
    recommended: dict[str, Any] = {"recipe": verdict.recipe, "by": verdict.by, "reason": verdict.reason}
    if setting.hiding is not None:
        recommended |= _check_on_test({name: mean_defined(values) for name, values in test.items()}, verdict.recipe)
    return {
        "name": setting.name,
        "known_per_label": known,
        "recipes": rows,
        "undefined_on_test": _undefined(made, "test_ap", label_names) if setting.hiding is not None else [],
        "undefined_held_out": _undefined(made, "held_out_ap", label_names),
        "recommended": recommended,
    }


def _values(runs: Sequence[Run], kind: str) -> Floats:
    """Return one value per seed: the mean over labels, of what is defined."""
    found = [np.array(getattr(run, kind), dtype=float) for run in runs]
    return np.array([mean_defined(np.atleast_1d(values)) for values in found])


def _spread(values: Floats) -> dict[str, Any]:
    defined = values[~np.isnan(values)]
    sd = float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")
    return {
        "mean": json_ready(mean_defined(values)),
        "sd": json_ready(sd),
        "values": [json_ready(v) for v in values],
    }


def _t_interval(differences: Floats) -> dict[str, Any]:
    """Return the mean of paired differences and its 95 % t interval; undefined for fewer than two seeds."""
    count = len(differences)
    half = float(stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5) if count > 1 else float("nan")
    mean = float(differences.mean())
    return {"mean": json_ready(mean), "interval": _pair(mean - half, mean + half)}


def _pair(low: float, high: float) -> list[float | None]:
    return [json_ready(float(low)), json_ready(float(high))]


def _check_on_test(test: Mapping[str, float], recipe: str) -> dict[str, Any]:
    """Hold a recommendation against the test split, which had no part in it."""
    best = max(test, key=lambda name: test[name])
    return {"best_on_test": best, "below_best": test[best] - test[recipe], "right": test[best] - test[recipe] <= NEAR}


def _undefined(runs: Sequence[Run], kind: str, label_names: Sequence[str]) -> list[str]:
    """Return the labels whose average precision is undefined for some seed; it is so for every recipe alike."""
    missing = np.isnan(np.array([getattr(run, kind) for run in runs], dtype=float)).any(axis=0)
    return [name for name, gone in zip(label_names, missing, strict=True) if gone]


def render_comparison(report: Mapping[str, Any], markdown: bool = False) -> str:
    """Return a table and a recommendation per setting, and one for all; at most 120 columns in a terminal."""
    blocks = [_render_setting(part, report["seeds"], markdown) for part in report["settings"]]
    blocks.append(_render_end(report))
    if markdown:
        return "\n\n".join("\n".join(block) for block in blocks)
    lines = [line for block in blocks for line in ("", *block)][1:]
    return "\n".join(part for line in lines for part in (_wrap(line) if len(line) > _COLUMNS else [line]))


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, _COLUMNS, subsequent_indent="    ", break_on_hyphens=False)


def _render_setting(part: Mapping[str, Any], seeds: int, markdown: bool) -> list[str]:
    simulated = "right" in part["recommended"]
    title = f"{part['name']}: {part['known_per_label']:.0f} known training entries per label, {seeds} seed(s)"
    kind = "test" if simulated else "held_out"
    head = ["recipe", f"{kind.replace('_', '-')} mAP", "minus the first", "held-out AUROC"]
    minus = "test_minus_first" if simulated else "judged_minus_first"
    if not simulated:
        head = [head[0], head[1], head[3], "AUROC minus the first"]
    rows = []
    for i, (name, row) in enumerate(part["recipes"].items()):
        difference = "" if i == 0 else _interval(row[minus])
        judged = number(row["judged"]["mean"])
        cells = [_with_sd(row[f"{kind}_mAP"]), *((difference, judged) if simulated else (judged, difference))]
        rows.append([name, *cells])
    lines = [f"**{title}**" if markdown else title, *([""] if markdown else []), *_table(head, rows, markdown)]
    notes = []
    for what, key in (("on test", "undefined_on_test"), ("held out", "undefined_held_out")):
        if part[key]:
            notes.append(f"labels with undefined AP {what}: {len(part[key])} ({shortlist(part[key])})")
    notes += _recommendation(part["recommended"])
    return [*lines, *(text for note in notes for text in ("", note))] if markdown else [*lines, *notes]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> list[str]:
    if markdown:
        return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
    names = [_shorten(row[0]) for row in (head, *rows)]
    width = max(len(name) for name in names)
    return [
        f"  {name:{width}} {row[1]:>17} {row[2]:>26} {row[3]:>22}"
        for name, row in zip(names, (head, *rows), strict=True)
    ]


def _shorten(name: str) -> str:
    """Keep the end of a long name: the overrides stand there, in which recipes differ."""
    return name if len(name) <= _WIDEST_NAME else f"…{name[1 - _WIDEST_NAME :]}"


def _recommendation(chosen: Mapping[str, Any]) -> list[str]:
    told = f"recommended: {chosen['recipe']} ({chosen['reason']})"
    if "right" in chosen:
        below = chosen["below_best"]
        told += "; on test it is the best" if below == 0 else f"; on test {below:.3f} below {chosen['best_on_test']}"
    return [told]


def _render_end(report: Mapping[str, Any]) -> list[str]:
    overall, right = report["recommended"], report["right"]
    kind = "t intervals over seeds" if right else "bootstrap intervals over images"
    explained = (
        f"mean ± sd over seeds; differences are paired, with 95 % {kind}; held-out AUROC: {BY_AUROC}, "
        f"in {report['folds']} folds, groups whole"
    )
    if right is None:
        return [f"recommended for these data: {overall['recipe']}", explained]
    return [
        f"recommended in {overall['settings']} of {overall['of']} settings: {overall['recipe']}",
        f"recommendations that are best on test, or within {right['within']:g}: {right['settings']} of {right['of']}",
        explained,
    ]


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
