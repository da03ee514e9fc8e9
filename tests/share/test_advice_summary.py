import copy

import advice_examples as examples
import numpy as np
import pytest

from halflabel.share.advice_summary import MOST_ROWS, render_advice
from halflabel.share.figures import letters


@pytest.fixture(scope="module")
def advice():
    return examples.advise_on_shared_need(["sign", "pole", "rare"])


def test_each_verdict_stands_beside_its_number(advice):
    text = render_advice(advice)
    auroc = advice["transfer"]["backbones"]["good"]["labels"]["sign"]["auroc"]
    row = next(line for line in text.splitlines() if line.startswith("sign "))
    assert f"{auroc['pretrained']:.2f} ({auroc['pretrained_low']:.2f}-{auroc['pretrained_high']:.2f})" in row
    gain = advice["multi_task"]["shared_features"]["labels"]["sign"]["auroc"]["difference"]
    assert row.endswith(f"no evidence (AUROC {gain:+.3f})")
    assert "times the 800 target images" in text
    assert "TRANSFER (quick): helps" in text
    assert "MULTI-TASK (quick): helps" in text
    assert "probes together and alone: mean AUROC" in text
    assert "capacity: big enough: a layer of 1 number that 2 labels share" in text


def test_where_networks_were_trained_their_numbers_stand_beside_the_verdicts(advice):
    trained = copy.deepcopy(advice)
    found = dict.fromkeys(("pretrained", "pretrained_low", "pretrained_high"), 0.66) | {"random": 0.33}
    trained["transfer"]["labels"]["sign"] |= {"trained": True, "auroc": found}
    trained["transfer"]["fine_tuning"] = {"sentence": "after 3 epochs, 2 runs each: best: good"}
    trained["multi_task"]["labels"]["sign"] |= {"verdict": "hurts", "number": "AUROC -0.123"}
    text = render_advice(trained)
    row = next(line for line in text.splitlines() if line.startswith("sign "))
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
    assert f"and {300 - MOST_ROWS} more labels" in text
    assert "7 more backbones" in text


def test_without_anything_measured_it_still_says_why():
    images = examples.annotate(np.full((10, 1), -100), ["only"])
    text = render_advice(examples.advise_made_up(images, None))
    assert "not enough data to tell" in text
    assert "single label" in text
