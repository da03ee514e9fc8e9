"""The drawn values are read back from the figures and held against loops and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from halflabel import HalflabelError
from halflabel.share.metric_plots import draw_precision_recall, draw_reliability, draw_score_histograms

NAMES = ["common", "rare", "no yes", "no no", "unknown"]
THRESHOLDS = [0.4, 0.3, 0.5, 0.5, 2.0]


@pytest.fixture(scope="module")
def answered():
    rng = np.random.default_rng(3)
    truth = (rng.random((300, 5)) < [0.4, 0.05, 0, 1, 0.5]).astype(int)
    scores = np.clip(0.25 + 0.35 * truth + rng.normal(0, 0.2, truth.shape), 0, 1)
    labels = np.where(rng.random(truth.shape) < 0.7, truth, -100)
    labels[:, 4] = rng.choice([-100, -101], 300)
    scores[labels < 0] = np.nan  # what nobody knows is not looked at
    return scores, labels


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").split("\n")[0] == name)


def known(answered, column):
    scores, labels = answered
    rows = [i for i in range(len(labels)) if labels[i, column] >= 0]
    return [float(scores[i, column]) for i in rows], [int(labels[i, column]) for i in rows]


def texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("column", [0, 1])
def test_the_curve_is_scikit_learns_and_the_point_is_that_of_the_threshold(answered, column):
    ends = np.stack([np.full(5, 0.25), np.full(5, 0.75)])
    figure = draw_precision_recall(*answered, NAMES, THRESHOLDS, ends)
    axes = panel(figure, NAMES[column])
    curve, guess, point = axes.lines
    score, answer = known(answered, column)
    precision, recall, _ = precision_recall_curve(answer, score)
    np.testing.assert_array_equal(curve.get_xdata(), recall)
    np.testing.assert_array_equal(curve.get_ydata(), precision)
    assert curve.get_drawstyle() == "steps-post"
    assert guess.get_ydata()[0] == pytest.approx(sum(answer) / len(answer))
    found = sum(s >= THRESHOLDS[column] for s in score)
    right = sum(s >= THRESHOLDS[column] and a == 1 for s, a in zip(score, answer, strict=True))
    assert point.get_ydata()[0] == pytest.approx(right / found)
    assert point.get_xdata()[0] == pytest.approx(right / sum(answer))
    below = axes.get_title(loc="left").split("\n")[1:]
    assert below[0] == f"AP {average_precision_score(answer, score):.3f} (0.25 to 0.75)"
    assert below[1] == f"yes from {THRESHOLDS[column]:.3g}: P {right / found:.2f}, R {right / sum(answer):.2f}"


def test_what_is_undefined_is_said_in_its_panel(answered):
    figure = draw_precision_recall(*answered, NAMES, THRESHOLDS)
    assert len(figure.axes) == 5
    assert texts(panel(figure, "no yes")) == ["undefined: no known positive"]
    assert texts(panel(figure, "no no")) == ["undefined: no known negative"]
    assert texts(panel(figure, "unknown")) == ["undefined: nothing known"]
    assert not panel(figure, "no yes").lines
    assert texts(panel(figure, "rare")) == []
    assert texts(panel(draw_reliability(*answered, NAMES), "unknown")) == ["undefined: nothing known"]
    histograms = draw_score_histograms(*answered, NAMES, THRESHOLDS)
    assert texts(panel(histograms, "unknown")) == ["nothing known"]


def test_a_threshold_above_every_score_finds_nothing(answered):
    figure = draw_precision_recall(*answered, NAMES, [2.0, 0.9999, 0.5, 0.5, 0.5])
    assert panel(figure, "common").get_title(loc="left").endswith("never yes: none reaches it")
    assert np.isnan(panel(figure, "common").lines[2].get_ydata()).all()


def test_reliability_is_the_share_of_yes_per_bin_of_scores(answered):
    figure = draw_reliability(*answered, NAMES)
    score, answer = known(answered, 0)
    bins = [[] for _ in range(15)]
    for s, a in zip(score, answer, strict=True):
        bins[min(int(s * 15), 14)].append((s, a))
    axes = panel(figure, "common")
    behind = next(other for other in figure.axes if other is not axes and other.bbox.bounds == axes.bbox.bounds)
    assert [bar.get_height() for bar in behind.patches] == [len(entries) for entries in bins]
    filled = [np.array(entries) for entries in bins if entries]
    points = axes.lines[1]
    np.testing.assert_allclose(points.get_xdata(), [entries[:, 0].mean() for entries in filled])
    np.testing.assert_allclose(points.get_ydata(), [entries[:, 1].mean() for entries in filled])
    error = sum(abs(e[:, 0].sum() - e[:, 1].sum()) for e in filled) / len(score)
    assert axes.get_title(loc="left").split("\n")[1] == f"calibration error {error:.3f}, {len(score)} known"


def test_histograms_hold_the_share_of_each_answer(answered):
    figure = draw_score_histograms(*answered, NAMES, THRESHOLDS)
    for column in (0, 1):
        axes = panel(figure, NAMES[column])
        score, answer = known(answered, column)
        for code, drawn in ((0, axes.patches[0]), (1, axes.patches[2])):
            count = [0] * 20
            for s, a in zip(score, answer, strict=True):
                if a == code:
                    count[min(math.floor(s * 20), 19)] += 1
            np.testing.assert_allclose(drawn.get_data().values * sum(count) / 100, count, atol=1e-9)
        assert axes.lines[0].get_xdata()[0] == THRESHOLDS[column]
        below = axes.get_title(loc="left").split("\n")[1:]
        assert below == [f"{sum(answer)} yes, {len(answer) - sum(answer)} no", f"yes from {THRESHOLDS[column]:.3g}"]
    assert not panel(figure, "unknown").patches


@pytest.mark.parametrize("draw", [draw_reliability, draw_score_histograms, draw_precision_recall])
def test_of_many_labels_those_with_the_most_positives_are_drawn(draw):
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 30)) < np.linspace(0.1, 0.9, 30)).astype(int)
    names = [f"${i}_x" for i in range(30)]
    more = [] if draw is draw_reliability else [0.5]
    figure = draw(rng.random((60, 30)), labels, names, *more)
    drawn = [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes if axes.get_title(loc="left")]
    counted = sorted(range(30), key=lambda i: -sum(labels[:, i]))
    assert drawn == [names[i] for i in counted[:24]]
    assert "24 of 30 labels: those with the most known positives" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("scores", "names", "thresholds", "message"),
    [
        ([[1.5]], ["a"], 0.5, "probabilities in 0..1"),
        ([[0.5]], ["a", "b"], 0.5, "2 label names for 1 labels"),
        ([[0.5]], ["a"], [0.5, 0.5], "thresholds have shape"),
        ([[0.5, 0.5]], ["a"], 0.5, "they must agree"),
    ],
)
def test_what_does_not_fit_is_refused(scores, names, thresholds, message):
    with pytest.raises(HalflabelError, match=message):
        draw_precision_recall(scores, [[1]], names, thresholds)
