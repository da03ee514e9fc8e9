"""Advice as text for a terminal: the verdicts, each with the number it rests on, in fewer than 40 lines."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

from .figures import letters, plain

MOST_ROWS = 10
_NAME, _LINE, _FAILURES = 24, 118, 2


def render_advice(advice: Mapping[str, Any]) -> str:
    """Return what `advice.advise` found; of many labels those with the most known answers."""
    data, transfer, multi = advice["data"], advice["transfer"], advice["multi_task"]
    left_out = {"of the test split": advice["test_images_left_out"], "that cannot be read": len(advice["unreadable"])}
    gone = "".join(f"; {count} {which} are left out" for which, count in left_out.items() if count)
    lines = [
        f"DATA: {data['verdict']}",
        *_wrap(data["sentence"] + gone),
        *_wrap(f"amounts: {data['balance']['verdict']}: {data['balance']['sentence']}"),
        *_wrap(data["co_annotation"]["sentence"]),
        f"TRANSFER ({advice['budget']}): {transfer['verdict']}",
        *_wrap(transfer["sentence"]),
        *_wrap(transfer["ranking_sentence"]),
    ]
    if transfer["fine_tuning"]:
        lines += _wrap(transfer["fine_tuning"]["sentence"])
    if transfer["backbones"]:
        shown = transfer["backbones"].get(transfer["best_backbone"]) or next(iter(transfer["backbones"].values()))
        lines += _wrap(shown["source"]["sentence"], 1)
    failures = transfer["failures"]
    lines += [
        line for row in failures[:_FAILURES] for line in _wrap(f"left out: {row['backbone']}: {row['reason']}", 1)
    ]
    if len(failures) > _FAILURES:
        lines.append(f"  left out: {len(failures) - _FAILURES} more backbones")
    lines += [f"MULTI-TASK ({advice['budget']}): {multi['verdict']}", *_wrap(multi["sentence"])]
    if multi["capacity"]:
        lines += _wrap(f"capacity: {multi['capacity']['verdict']}: {multi['capacity']['sentence']}")
    return "\n".join([*lines, *_label_table(advice)])


def _wrap(text: str, most: int = 2) -> list[str]:
    """Break a text into so many lines; of a longer one the end is left out, which the report has."""
    return textwrap.wrap(plain(text, math.inf), _LINE, initial_indent="  ", subsequent_indent="    ",
                         max_lines=most, placeholder=" …")  # fmt: skip


def _label_table(advice: Mapping[str, Any]) -> list[str]:
    rows = sorted(advice["data"]["labels"].items(), key=lambda row: -row[1]["known"])
    shown = rows[:MOST_ROWS]
    width = max(5, *(letters(plain(name, _NAME)) for name, _ in shown))
    lines = [
        f"{'label':{width}} {'known':>7} {'yes':>7}  {'AUROC pretrained':17} {'random':7} {'transfer':24}multi-task"
    ]
    for name, counts in shown:
        transfer, multi = advice["transfer"]["labels"][name], advice["multi_task"]["labels"][name]
        pretrained, random = _auroc(transfer["auroc"])
        told = transfer["verdict"] + (", trained" if transfer["trained"] else "")
        multi_task = multi["verdict"] + (f" ({multi['number']})" if multi["number"] else "")
        padded = plain(name, _NAME) + " " * (width - letters(plain(name, _NAME)))
        lines.append(
            f"{padded} {counts['known']:7} {counts['positive']:7}  {pretrained:17} {random:7} {told:24}{multi_task}"
        )
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more labels, which are all in the report")
    return lines


def _auroc(found: Mapping[str, float] | None) -> tuple[str, str]:
    """Return what a verdict rests on: the AUROC with pretrained weights and its interval, and with random ones."""
    if found is None:
        return "-", "-"
    ends = f"({found['pretrained_low']:.2f}-{found['pretrained_high']:.2f})"
    return f"{found['pretrained']:.2f} {ends}", f"{found['random']:.2f}"
