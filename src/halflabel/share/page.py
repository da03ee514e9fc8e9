"""Advice for people: verdicts on a terminal, one HTML page that fetches nothing, and JSON."""

import json
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from ..data.files import write_whole
from .plots import letters, plain

MOST_ROWS, MOST_LINES = 100, 10
"""So many labels stand in a table of the page, and on the terminal."""

_TEMPLATE = Path(__file__).with_name("page_template.html.jinja")
_MARKS = {"helps": "good", "enough": "good", "similar": "good", "big enough": "good", "hurts": "bad", "unequal": "bad",
          "far more source images": "good", "mixed": "mixed"}  # fmt: skip
_NAME, _LINE, _FAILURES = 24, 118, 2


def write_report(advice: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write what `studies.advice.advise` found as `<stem>.html` and `<stem>.json`, and return these files."""
    page, content = (stem.with_name(f"{stem.name}.{ending}") for ending in ("html", "json"))
    write_whole(content, json.dumps(advice, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(page, render_page(advice))
    return [page, content]


def render_page(advice: Mapping[str, Any]) -> str:
    """Render one HTML page; in its tables of labels stand those with the most known answers."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True)
    environment.filters.update(
        number=lambda value, digits=2: "undefined" if value is None else f"{value:z.{digits}f}",  # z: no -0.00
        signed=lambda value, digits=2: "undefined" if value is None else f"{value:+z.{digits}f}",
        mark=lambda word: _MARKS.get(word, ""),
    )
    rows = sorted(advice["data"]["labels"].items(), key=lambda row: -row[1]["known"])
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        advice=advice,
        data=advice["data"],
        transfer=advice["transfer"],
        multi=advice["multi_task"],
        rows=rows[:MOST_ROWS],
        rows_left_out=max(0, len(rows) - MOST_ROWS),
    )


def render_advice(advice: Mapping[str, Any]) -> str:
    """Return the verdicts in fewer than 40 lines, each with the number it rests on; the best known labels are shown."""
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
    for row in failures[:_FAILURES]:
        lines += _wrap(f"left out: {row['backbone']}: {row['reason']}", 1)
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
    shown = rows[:MOST_LINES]
    width = max(5, *(letters(plain(name, _NAME)) for name, _ in shown))
    head = f"{'label':{width}} {'known':>7} {'yes':>7}  {'AUROC pretrained':17} {'random':7} {'transfer':24}multi-task"
    lines = [head]
    for name, counts in shown:
        transfer, multi = advice["transfer"]["labels"][name], advice["multi_task"]["labels"][name]
        pretrained, random = "-", "-"
        if found := transfer["auroc"]:
            ends = f"({found['pretrained_low']:.2f}-{found['pretrained_high']:.2f})"
            pretrained, random = f"{found['pretrained']:.2f} {ends}", f"{found['random']:.2f}"
        told = transfer["verdict"] + (", trained" if transfer["trained"] else "")
        multi_task = multi["verdict"] + (f" ({multi['number']})" if multi["number"] else "")
        padded = plain(name, _NAME) + " " * (width - letters(plain(name, _NAME)))
        known = f"{counts['known']:7} {counts['positive']:7}"
        lines.append(f"{padded} {known}  {pretrained:17} {random:7} {told:24}{multi_task}")
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more labels, which are all in the report")
    return lines
