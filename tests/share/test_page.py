import copy
import json
import re
from html.parser import HTMLParser

import advice_examples as examples
import numpy as np
import pytest

from halflabel.share.page import MOST_LINES, MOST_ROWS, render_advice, render_page, write_report
from halflabel.share.plots import letters

HOSTILE = '<script>alert("x")</script> & $y_1$'


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def advice():
    failures = [{"backbone": "<b>nope</b>", "reason": "timm knows no backbone"}]
    return examples.advise_on_shared_need([HOSTILE, "pole", "rare"], failures)


def test_the_page_holds_everything_itself_and_names_are_text(advice):
    page = Page(render_page(advice))
    text = "".join(page.words)
    assert HOSTILE in text
    assert "<b>nope</b> is left out" in text
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "b>nope")]
    assert not re.search(r"https?://|url\(|@import", render_page(advice))


def test_numbers_of_the_page_are_those_of_the_advice(advice):
    text = " ".join("".join(Page(render_page(advice)).words).split())
    auroc = advice["transfer"]["backbones"]["good"]["labels"]["pole"]["auroc"]
    assert f"{auroc['difference']:+.2f} ({auroc['low']:+.2f} to {auroc['high']:+.2f})" in text
    assert advice["multi_task"]["capacity"]["sentence"] in text
    assert f"±{advice['data']['labels']['pole']['auroc_half_width']:.2f}" in text
    assert "far more source images the weights come from 1,281,167 images" in text
    assert advice["multi_task"]["labels"]["pole"]["number"] in text
    assert "None" not in text
    assert "nan" not in text.lower().split()
    assert "not enough data to tell" in text


def test_files_are_written_beside_each_other_and_json_is_the_advice(advice, tmp_path):
    html, content = write_report(advice, tmp_path / "my.report")
    assert [html.name, content.name] == ["my.report.html", "my.report.json"]
    assert json.loads(content.read_text(encoding="utf-8")) == json.loads(json.dumps(advice))
    assert html.read_text(encoding="utf-8") == render_page(advice)


@pytest.mark.parametrize(("count", "columns"), [(10, 3), (60, 1), (60, 300)])
def test_a_page_is_made_of_little_data_one_label_and_many(count, columns):
    rng = np.random.default_rng(0)
    features = examples.make_features(count)[2] if count >= 20 else None
    images = examples.annotate(rng.integers(0, 2, (count, columns)), [f"label {i}" for i in range(columns)])
    text = render_page(examples.advise_made_up(images, features))
    assert text.count("<td>label ") <= 3 * MOST_ROWS
    assert ("more labels are in the JSON file" in text) == (columns > MOST_ROWS)
    assert "None" not in text


def test_each_verdict_stands_beside_its_number(advice):
    text = render_advice(advice)
    auroc = advice["transfer"]["backbones"]["good"]["labels"]["pole"]["auroc"]
    row = next(line for line in text.splitlines() if line.startswith("pole "))
    assert f"{auroc['pretrained']:.2f} ({auroc['pretrained_low']:.2f}-{auroc['pretrained_high']:.2f})" in row
    told = advice["multi_task"]["labels"]["pole"]
    assert row.endswith(f"{told['verdict']} ({told['number']})")
    assert "times the 800 target images" in text
    assert "TRANSFER (quick): helps" in text
    assert f"MULTI-TASK (quick): {advice['multi_task']['verdict']}" in text
    assert advice["multi_task"]["capacity"]["verdict"] in text


def test_where_networks_were_trained_their_numbers_stand_beside_the_verdicts(advice):
    trained = copy.deepcopy(advice)
    found = dict.fromkeys(("pretrained", "pretrained_low", "pretrained_high"), 0.66) | {"random": 0.33}
    trained["transfer"]["labels"]["pole"] |= {"trained": True, "auroc": found}
    trained["transfer"]["fine_tuning"] = {"sentence": "after 3 epochs, 2 runs each: best: good"}
    trained["multi_task"]["labels"]["pole"] |= {"verdict": "hurts", "number": "AUROC -0.123"}
    text = render_advice(trained)
    row = next(line for line in text.splitlines() if line.startswith("pole "))
    assert row.split()[3:6] == ["0.66", "(0.66-0.66)", "0.33"]
    assert row.endswith("hurts (AUROC -0.123)")
    assert "helps, trained" in row
    assert "after 3 epochs, 2 runs each" in text


def test_a_label_that_cannot_be_told_says_so_and_shows_no_number(advice):
    row = next(line for line in render_advice(advice).splitlines() if line.startswith("rare "))
    assert row.count("not enough data to tell") == 2
    assert row.split()[3:5] == ["-", "-"]


def test_many_labels_with_long_names_and_failures_stay_below_forty_lines():
    rng = np.random.default_rng(0)
    _, _, features = examples.make_features(60)
    names = [f"{i} " + "a very long name of a label " * 20 for i in range(300)]
    images = examples.annotate(rng.integers(0, 2, (60, 300)), [name.strip() for name in names])
    failures = [{"backbone": f"backbone {i}", "reason": "it cannot be had " * 30} for i in range(9)]
    text = render_advice(examples.advise_made_up(images, features, failures))
    lines = text.splitlines()
    assert len(lines) + 1 < 40  # one more tells where the report is
    assert max(letters(line) for line in lines) <= 120
    assert f"and {300 - MOST_LINES} more labels" in text
    assert "7 more backbones" in text


def test_without_anything_measured_it_still_says_why():
    images = examples.annotate(np.full((10, 1), -100), ["only"])
    text = render_advice(examples.advise_made_up(images, None))
    assert "not enough data to tell" in text
    assert "single label" in text
