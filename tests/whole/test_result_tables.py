"""The tables of results say what was measured, and nothing else."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "model_cards" / "write_tables.py"
spec = importlib.util.spec_from_file_location("write_tables", SCRIPT)
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)
RESULTS = json.loads(tables.RESULTS.read_text())


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name)
def test_the_pages_hold_the_tables_of_the_data(page):
    text = page.read_text()
    assert tables.REGION.search(text)
    assert tables.fill(text, RESULTS) == text, "python model_cards/write_tables.py writes them again"


def test_every_table_stands_on_a_page():
    named = {match[2] for page in tables.PAGES for match in tables.REGION.finditer(page.read_text())}
    assert named == set(tables.TABLES)


def test_runs_are_summed_up_as_mean_and_sample_standard_deviation():
    scores = RESULTS["transfer_30"]["linear_probe"]["mAP"]
    row = re.search(r"\| `linear_probe` \| \**(.*?)\** \| (.*?) \|", tables.draw_transfer(RESULTS))
    assert row[1] == f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
    assert len(scores) == 3
    assert tables.summarise([0.25]) == "0.250"
    assert tables.summarise({"mean": 0.25, "sd": 0.016}) == "0.250 ± 0.016"
    assert tables.summarise(None) == ""


def test_the_best_mean_of_a_column_is_bold():
    drawn = tables.draw(("a", "b", "c"), {"x": [[0.1, 0.3], [0.5]], "y": [[0.3], None]})
    assert drawn.splitlines()[2:] == ["| x | 0.200 ± 0.141 | **0.500** |", "| y | **0.300** |  |"]


def test_a_card_is_shown_with_its_own_numbers():
    folder = SCRIPT.parent / "finetune"
    metrics = json.loads((folder / "metrics.json").read_text())
    row = next(line for line in tables.draw_cards({}).splitlines() if "[finetune]" in line)
    assert f"{metrics['mAP']:.3f}" in row
    assert "| 30 % |" in row  # its recipe's keep_labels


def test_another_result_is_noticed():
    changed = json.loads(json.dumps(RESULTS))
    changed["transfer_30"]["linear_probe"]["mAP"][0] += 0.1
    text = tables.PAGES[0].read_text()
    assert tables.fill(text, changed) != text
