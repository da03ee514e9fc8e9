"""Advice as text for a terminal: the verdicts, each with the number it rests on, in fewer than 40 lines."""

import textwrap
from collections.abc import Mapping
from typing import Any

from .figures import letters, plain

MOST_ROWS = 12
_NAME, _LINE, _FAILURES = 24, 118, 3


def render_advice(advice: Mapping[str, Any]) -> str:
    """Return what `advice.advise` found; of many labels those with the most known answers."""
    data, transfer, multi = advice["data"], advice["transfer"], advice["multi_task"]
    left_out = advice["test_images_left_out"]
    test = f" ({left_out} of the test split are left out)" if left_out else ""
    test += f" ({len(advice['unreadable'])} that cannot be read are left out)" if advice["unreadable"] else ""
    lines = [
        "DATA",
        f"  {data['sentence']}{test}",
        f"  balance: {data['balance']['verdict']}: {data['balance']['sentence']}",
        f"  {data['co_annotation']['sentence']}",
        f"TRANSFER ({advice['budget']}): {transfer['verdict']}",
        f"  {transfer['sentence']}",
    ]
    if transfer["ranking_sentence"]:
        lines.append(f"  {transfer['ranking_sentence']}")
    failures = transfer["failures"]
    lines += [f"  left out: {plain(row['backbone'], 40)}: {plain(row['reason'], 60)}" for row in failures[:_FAILURES]]
    if len(failures) > _FAILURES:
        lines.append(f"  left out: {len(failures) - _FAILURES} more backbones")
    lines += [f"MULTI-TASK ({advice['budget']}): {multi['verdict']}", f"  {multi['sentence']}"]
    if multi["groups"]:
        lines += [f"  capacity: {multi['capacity']['sentence']}", f"  groups: {multi['groups']['sentence']}"]
    return "\n".join([*(part for line in lines for part in _wrap(line)), *_label_table(advice)])


def _wrap(line: str) -> list[str]:
    """Break a line in two; of a longer one the end is left out, which the report has."""
    return textwrap.wrap(plain(line, 2 * _LINE - 20) if len(line) > 2 * _LINE - 20 else line, _LINE,
                         subsequent_indent="    ", drop_whitespace=True, replace_whitespace=False)  # fmt: skip


def _label_table(advice: Mapping[str, Any]) -> list[str]:
    rows = sorted(advice["data"]["labels"].items(), key=lambda row: -row[1]["known"])
    shown = rows[:MOST_ROWS]
    width = max(5, *(letters(plain(name, _NAME)) for name, _ in shown))
    lines = [f"{_pad('label', width)} {'known':>7} {'yes':>7}  {'AUROC pretrained':17} {'random':7} transfer"]
    lines[0] += " " * 19 + "multi-task"
    for name, counts in shown:
        told = advice["transfer"]["labels"][name]
        auroc = _auroc(advice["transfer"], name, told["backbone"])
        lines.append(
            f"{_pad(plain(name, _NAME), width)} {counts['known']:7} {counts['positive']:7}  {auroc[0]:17} "
            f"{auroc[1]:7} {told['verdict']:26} {advice['multi_task']['labels'][name]['verdict']}"
        )
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more labels, which are all in the report")
    return lines


def _auroc(transfer: Mapping[str, Any], name: str, backbone: str | None) -> tuple[str, str]:
    """Return the AUROC of a label with both kinds of weights, of the backbone of its verdict, else of the first."""
    one = transfer["backbones"].get(backbone) or next(iter(transfer["backbones"].values()), None)
    auroc = one and one["labels"][name]["auroc"]
    if not auroc:
        return "-", "-"
    ends = f" ({auroc['pretrained_low']:.2f}-{auroc['pretrained_high']:.2f})"
    return f"{auroc['pretrained']:.2f}{ends}", f"{auroc['random']:.2f}"


def _pad(text: str, width: int) -> str:
    return text + " " * max(0, width - letters(text))
