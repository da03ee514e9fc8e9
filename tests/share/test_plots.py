"""The drawn values are read back from the figures and held against loops and scikit-learn."""

import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import average_precision_score, precision_recall_curve

from halflabel import DecisionRule, HalflabelError
from halflabel.model.labels import count_labels
from halflabel.share import plots
from halflabel.share.plots import (
    choose_labels,
    draw_average_precision,
    draw_coverage,
    draw_learning_curve,
    draw_measured,
    draw_precision_recall,
    draw_reliability,
    draw_training,
    letters,
    load_font,
    new_figure,
    plain,
    save,
)
from halflabel.use.evaluate import Measured

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
    figure = draw_precision_recall(*answered, NAMES, THRESHOLDS)
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
    assert below[0] == f"AP {average_precision_score(answer, score):.3f}"
    assert below[1] == f"yes from {THRESHOLDS[column]:.3g}: P {right / found:.2f}, R {right / sum(answer):.2f}"


def test_what_is_undefined_is_said_in_its_panel(answered):
    figure = draw_precision_recall(*answered, NAMES, THRESHOLDS)
    assert len(figure.axes) == 5
    assert texts(panel(figure, "no yes")) == ["no known positive"]
    assert texts(panel(figure, "no no")) == ["no known negative"]
    assert texts(panel(figure, "unknown")) == ["nothing known"]
    assert not panel(figure, "no yes").lines
    assert texts(panel(figure, "rare")) == []
    assert texts(panel(draw_reliability(*answered, NAMES), "unknown")) == ["nothing known"]


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
    filled = [np.array(entries) for entries in bins if entries]
    points = axes.lines[1]
    np.testing.assert_allclose(points.get_xdata(), [entries[:, 0].mean() for entries in filled])
    np.testing.assert_allclose(points.get_ydata(), [entries[:, 1].mean() for entries in filled])
    error = sum(abs(e[:, 0].sum() - e[:, 1].sum()) for e in filled) / len(score)
    assert axes.get_title(loc="left").split("\n")[1] == f"calibration error {error:.3f}, {len(score)} known"


@pytest.mark.parametrize("draw", [draw_reliability, draw_precision_recall])
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


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_what_explains_the_marks_is_not_cut_off(count):
    rng = np.random.default_rng(0)
    scores, labels, names = rng.random((40, count)), rng.integers(0, 2, (40, count)), [str(i) for i in range(count)]
    for figure in (draw_reliability(scores, labels, names), draw_precision_recall(scores, labels, names, 0.5)):
        figure.draw_without_rendering()
        assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1


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


def answers(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, -100], (rows, columns), p=[0.4, 0.2, 0.4])
    return np.clip(rng.random((rows, columns)) * 0.7 + 0.3 * (labels == 1), 0, 1), labels


def test_all_pictures_are_written_with_a_display_or_without(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    monkeypatch.delenv("DISPLAY", raising=False)
    scores, labels = answers(80, 3)
    names = ["price in $", "снег и лёд" * 10, "c_1"]
    logits = np.log(scores + 1e-9) - np.log(1 + 1e-9 - scores)
    metrics = {"labels": {name: {"AP_interval": [0.1, None]} for name in names}}
    files = draw_measured(tmp_path / "plots", Measured(metrics, logits, labels, DecisionRule.plain(3)))
    history = [{"epoch": 1.0, "loss": 0.5}, {"epoch": 1.0, "eval_mAP": 0.4, "eval_known_loss": 0.6}]
    files += draw_training(tmp_path / "plots", history, count_labels(labels), names)
    assert [file.stem for file in files] == [
        "average_precision", "precision_recall", "reliability", "learning_curve", "coverage"
    ]  # fmt: skip
    for file in files:
        with Image.open(file) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_the_bars_are_scikit_learns_average_precision_best_first():
    scores, labels = answers(120, 4)
    labels[:, 2] = np.where(labels[:, 2] == 1, -100, labels[:, 2])
    ends = np.array([[0.1, 0.2, np.nan, 0.3], [0.8, 0.7, np.nan, 0.6]])
    figure = draw_average_precision(scores, labels, list("abcd"), ends)
    axes = figure.axes[0]
    expected, share = {}, {}
    for name in "abd":
        column = "abcd".index(name)
        rows = [row for row in range(120) if labels[row, column] >= 0]
        expected[name] = average_precision_score(labels[rows, column], scores[rows, column])
        share[name] = sum(labels[row, column] for row in rows) / len(rows)
    order = [label.get_text() for label in axes.get_yticklabels()]
    assert order == [*sorted(expected, key=lambda name: -expected[name]), "c"]
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths[:3], [expected[name] for name in order[:3]])
    assert np.isnan(widths[3])
    said = [text.get_text() for text in axes.texts]
    assert "no known positive" in said
    positives = sum(labels[:, 0] == 1)
    assert f"{expected['a']:.3f}   {positives} yes of {sum(labels[:, 0] >= 0)} known" in said
    segments = {round(segment[0, 1]): segment[:, 0] for segment in axes.collections[0].get_segments() if len(segment)}
    np.testing.assert_array_equal(segments[order.index("b")], [0.2, 0.7])
    np.testing.assert_allclose(axes.lines[0].get_xdata()[:3], [share[name] for name in order[:3]])
    mean = sum(expected.values()) / 3
    assert figure.get_suptitle().startswith(
        f"Average precision: mAP {mean:.3f} over 3 labels, 1 undefined and not in it"
    )


def test_coverage_is_counted_yes_no_and_unknown():
    _, labels = answers(50, 70)
    labels[3, 5] = -101  # uncertain is not known
    names = [str(i) for i in range(70)]
    figure = draw_coverage(count_labels(labels), names, "training")
    axes = figure.axes[0]
    order = [int(label.get_text()) for label in axes.get_yticklabels()]
    assert order == sorted(range(70), key=lambda i: -sum(labels[:, i] == 1))[:60]
    bars = [[bar.get_width() for bar in axes.patches[60 * k : 60 * (k + 1)]] for k in range(3)]
    for place, i in enumerate(order):
        counted = [sum(labels[:, i] == 1), sum(labels[:, i] == 0), sum(labels[:, i] < 0)]
        assert [bars[k][place] for k in range(3)] == counted
        assert axes.patches[60 + place].get_x() == counted[0]
    assert figure.get_suptitle().endswith("60 of 70 labels: those with the most known positives")
    assert f"{100 * (labels >= 0).mean():.0f} % of all entries" in figure.get_suptitle()


def test_the_learning_curve_is_that_of_the_trainer():
    measured = [0.3, 0.5, 0.45, 0.4]
    log_history = []
    for epoch, value in enumerate(measured, 1):
        log_history.append({"epoch": float(epoch), "loss": 1 / epoch, "learning_rate": 0.1})
        log_history.append({"epoch": float(epoch), "eval_mAP": value, "eval_known_loss": 0.5 / epoch})
    figure = draw_learning_curve(log_history)
    left, right = figure.axes
    loss, validation = left.lines
    assert loss.get_xdata().tolist() == [1, 2, 3, 4]
    assert loss.get_ydata().tolist() == [entry["loss"] for entry in log_history if "loss" in entry]
    assert validation.get_ydata().tolist() == [entry["eval_known_loss"] for entry in log_history if "eval_mAP" in entry]
    assert right.lines[0].get_ydata().tolist() == measured
    best = measured.index(max(measured))
    assert right.lines[1].get_xdata()[0] == best + 1
    assert right.get_title(loc="left") == f"best mAP {max(measured):.3f}, at epoch {best + 1}"


@pytest.mark.parametrize("history", [[], [{"epoch": 1.0, "loss": 0.3}], [{"epoch": 1.0, "eval_mAP": float("nan")}]])
def test_a_run_without_validation_says_so(history, tmp_path):
    figure = draw_learning_curve(history)
    assert [text.get_text() for text in figure.axes[1].texts] == ["nothing was validated"]
    figure.savefig(tmp_path / "a.png")


def test_the_labels_with_the_most_positives_are_shown_and_the_clause_says_so():
    positives = np.array([3, 9, 0, 9, 5])
    order, clause = choose_labels(positives, 3)
    assert order.tolist() == [1, 3, 4]
    assert clause == "3 of 5 labels: those with the most known positives"
    assert choose_labels(positives, 5)[0].tolist() == [1, 3, 4, 0, 2]
    assert choose_labels(positives[:1])[1] == "1 label"


def test_a_long_name_keeps_its_beginning_and_its_end():
    name = "traffic sign, rectangular, blue, seen from behind, number 17" + " and more" * 3
    short = plain(name)
    assert letters(short) <= 26
    start, end = short.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert len(start) > len(end) > 3


def test_a_name_becomes_one_printable_line_and_is_else_left_alone():
    assert plain(" a\n b\t\x07c ") == "a b c"
    assert plain(r"$x_1$ \alpha {светофор}") == r"$x_1$ \alpha {светофор}"
    assert plain("") == ""


def test_asian_letters_count_twice():
    assert plain("交通信号" * 3) == "交通信号" * 3
    short = plain("交通信号" * 10)
    assert letters(short) == 2 * len(short) - 1 <= 26


def test_a_name_for_pillow_is_measured_in_pixels():
    font = load_font(12)
    short = plain("W" * 500, 100, font.getlength)
    assert 80 < font.getlength(short) <= 100


def test_dollars_start_no_formula(tmp_path):
    """matplotlib would refuse this name as a wrong formula when the picture is drawn."""
    figure = new_figure(3, 2, r"price in $ and \$")
    axes = figure.subplots()
    axes.set_title(r"$\nonsense{x$")
    axes.set_yticks([0, 1], [r"$_$", "b"])
    with Image.open(save(figure, tmp_path / "new" / "a.png")) as picture:
        assert np.asarray(picture.convert("L")).min() < 100


def test_letters_without_a_font_are_drawn_without_a_flood_of_warnings(tmp_path):
    figure = new_figure(3, 2, "\U0001e900\U0001e901")  # Adlam
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 500


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(HalflabelError, match=r"^pictures need matplotlib: pip install 'halflabel\[plots\]'$"):
        new_figure(1, 1, "")


def test_the_font_has_accents():
    def drawn(text, font):
        picture = Image.new("L", (40, 40))
        ImageDraw.Draw(picture).text((5, 5), text, fill=255, font=font)
        return np.asarray(picture)

    font = load_font(16)
    assert not np.array_equal(drawn("é", font), drawn("ñ", font))
    pillows_own = ImageFont.load_default(16)
    assert np.array_equal(drawn("é", pillows_own), drawn("ñ", pillows_own))  # why another one is looked for
