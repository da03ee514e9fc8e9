"""Write the tables of results in recipes/README.md and model_cards/README.md from what was measured.

    python model_cards/write_tables.py [--check]
    python model_cards/write_tables.py --add NAME FILE     # takes over what a benchmark wrote with --output

A table stands between `<!-- table NAME -->` and `<!-- end -->`. `results.json` holds the test mAP of every run of the
benchmarks, one a seed, or their mean and standard deviation where the runs were not kept; `*/metrics.json` and
`*/recipe.yaml` are those of the cards. `--check` writes nothing and ends with 1 where a table differs from its data.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGES = (HERE.parent / "recipes" / "README.md", HERE / "README.md")
REGION = re.compile(r"(<!-- table (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Results = Mapping[str, Mapping[str, Any]]
Runs = Sequence[float] | Mapping[str, float] | None


def mean_of(runs: Sequence[float] | Mapping[str, float]) -> float:
    """Return the mean of some runs."""
    return runs["mean"] if isinstance(runs, Mapping) else statistics.mean(runs)


def summarise(runs: Runs) -> str:
    """Return mean ± sample standard deviation of some runs, one number as it is, and nothing for none."""
    if not runs:
        return ""
    several = isinstance(runs, Mapping) or len(runs) > 1
    spread = None if not several else runs["sd"] if isinstance(runs, Mapping) else statistics.stdev(runs)
    return f"{mean_of(runs):.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def draw(head: Sequence[str], rows: Mapping[str, Sequence[Runs]], *, bold: bool = True) -> str:
    """Draw a Markdown table of runs; the best mean of each column is bold."""
    columns = zip(*rows.values(), strict=True)
    best = [max(mean_of(runs) for runs in column if runs) for column in columns]
    lines = []
    for name, cells in rows.items():
        texts = []
        for runs, highest in zip(cells, best, strict=True):
            text = summarise(runs)
            texts.append(f"**{text}**" if bold and runs and mean_of(runs) == highest else text)
        lines.append((name, *texts))
    return join(head, lines)


def join(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return cells as a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def percent(share: str | float) -> str:
    """Return a share as a whole number of percent."""
    return f"{100 * float(share):.0f} %"


def draw_masking(results: Results) -> str:
    """Draw what masking is worth by the share of known labels."""
    masked, negative = results["masking"].values()
    keeps = sorted((key for key in masked if key != "full"), reverse=True)
    rows: dict[str, Sequence[Runs]] = {"100 %": [[masked["full"]], [negative["full"]]]}
    rows |= {percent(keep): [masked[keep]["mAP"], negative[keep]["mAP"]] for keep in keeps}
    return draw(("labels known", "unknown masked", 'unknown taken as "no"'), rows, bold=False)


def draw_protocols(results: Results) -> str:
    """Draw losses by kinds of missing labels."""
    table = results["protocols"]
    protocols = list(next(iter(table.values())))
    rows = {f"`{loss}`": [cells[protocol] for protocol in protocols] for loss, cells in table.items()}
    return draw(("`loss`", *protocols), rows)


def draw_unknown(results: Results) -> str:
    """Draw recipes that learn from unknown entries, and the share of the gap they close."""
    table = results["unknown"]
    keeps = [key for key in next(iter(table.values())) if key != "full"]
    head = ["recipe", "all known", *(text for keep in keeps for text in (f"{percent(keep)} known", "closed"))]
    rows = []
    for number, (recipe, found) in enumerate(table.items()):
        cells = [f"`{recipe}`", f"{found['full']:.3f}"]
        for keep in keeps:
            gain, half, gap = (found[keep][key] for key in ("gain", "half_interval", "gap"))
            closed = f"{100 * gain / gap:.0f} ± {100 * half / gap:.0f} %" if number else ""
            cells += [summarise(found[keep]["mAP"]), closed]
        rows.append(cells)
    return join(head, rows)


def draw_transfer(results: Results) -> str:
    """Draw recipes and heads at 30 % and at all labels known."""
    some, every = results["transfer_30"], results["transfer_100"]
    rows = {f"`{recipe}`": [found["mAP"], every.get(recipe, {}).get("mAP")] for recipe, found in some.items()}
    return draw(("recipe", "30 % known", "all known"), rows)


def draw_cards(results: Results) -> str:
    """Draw one row a card: what it was trained on, and its test mAP with the bootstrap interval."""
    rows = []
    for folder in sorted(path.parent for path in HERE.glob("*/metrics.json")):
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        training = json.loads((folder / "card.json").read_text(encoding="utf-8"))["training"]
        counts = training["labels"].values()
        known = sum(one["positive"] + one["negative"] for one in counts) / (training["images"] * len(counts))
        data = ", ".join(one if isinstance(one, str) else one.get("name", one["path"]) for one in recipe["data"])
        low, high = metrics["mAP_interval"]
        measured = f"{metrics['mAP']:.3f} ({low:.3f} to {high:.3f})"
        rows.append((f"[{folder.name}]({folder.name}/README.md)", f"`{recipe['backbone']}`", data.replace("_", " "),
                     percent(known), measured, f"{metrics['known_entries']:,}"))  # fmt: skip
    return join(("card", "backbone", "data", "labels known", "test mAP (95 % interval)", "known test entries"), rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "masking": draw_masking,
    "protocols": draw_protocols,
    "unknown": draw_unknown,
    "transfer": draw_transfer,
    "cards": draw_cards,
}


def fill(page: str, results: Results) -> str:
    """Return a page with its tables drawn anew."""
    return REGION.sub(lambda match: match[1] + TABLES[match[2]](results) + match[4], page)


def main() -> int:
    """Write the tables, or say which page differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--add", nargs=2, metavar=("NAME", "FILE"), help="take over the runs of a benchmark first")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if options.add:
        name, path = options.add
        results[name] = results.get(name, {}) | json.loads(Path(path).read_text(encoding="utf-8"))
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stale = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        drawn = fill(text, results)
        if drawn != text:
            stale += 1
            print(f"{page}: {'differs from' if options.check else 'written from'} the data")
            if not options.check:
                page.write_text(drawn, encoding="utf-8")
    return int(bool(stale and options.check))


if __name__ == "__main__":
    sys.exit(main())
