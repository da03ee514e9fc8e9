import json
import re
from html.parser import HTMLParser

import advice_examples as examples
import numpy as np
import pytest

from halflabel.share import advice_report
from halflabel.share.advice_report import MOST_ROWS, render_page, write_report

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
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 1
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert not re.search(r"https?://|url\(|@import", render_page(advice))


def test_numbers_of_the_page_are_those_of_the_advice(advice):
    text = " ".join("".join(Page(render_page(advice)).words).split())
    auroc = advice["transfer"]["backbones"]["good"]["labels"]["pole"]["auroc"]
    assert f"{auroc['difference']:+.3f} ({auroc['low']:+.3f} to {auroc['high']:+.3f})" in text
    gain = advice["multi_task"]["shared_features"]["labels"]["pole"]["auroc"]
    assert f"{gain['difference']:+z.3f} ({gain['low']:+z.3f} to {gain['high']:+z.3f})" in text
    assert advice["multi_task"]["capacity"]["sentence"] in text
    assert f"±{advice['data']['labels']['pole']['auroc_half_width']:.2f}" in text
    assert "far more source images the weights come from 1,281,167 images" in text
    assert "None" not in text
    assert "nan" not in text.lower().split()
    assert "not enough data to tell" in text


def test_files_are_written_beside_each_other_and_json_is_the_advice(advice, tmp_path):
    page, content = write_report(advice, tmp_path / "my.report")
    assert [page.name, content.name] == ["my.report.html", "my.report.json"]
    assert json.loads(content.read_text(encoding="utf-8")) == json.loads(json.dumps(advice))
    assert page.read_text(encoding="utf-8") == render_page(advice)


def test_without_matplotlib_the_page_says_what_is_missing(advice, monkeypatch):
    monkeypatch.setattr(advice_report, "find_spec", lambda name: None)
    text = render_page(advice)
    assert "<img" not in text
    assert "halflabel[plots]" in text


@pytest.mark.parametrize(("count", "columns"), [(10, 3), (60, 1), (60, 300)])
def test_a_page_is_made_of_little_data_one_label_and_many(count, columns):
    rng = np.random.default_rng(0)
    features = examples.make_features(count)[2] if count >= 20 else None
    images = examples.annotate(rng.integers(0, 2, (count, columns)), [f"label {i}" for i in range(columns)])
    text = render_page(examples.advise_made_up(images, features))
    assert text.count("<td>label ") <= 3 * MOST_ROWS
    assert ("more labels are in the JSON file" in text) == (columns > MOST_ROWS)
    assert "None" not in text
