import numpy as np
import pytest

from halflabel.share.advice_plots import MOST_CURVES, MOST_ROWS, draw_affinity, draw_learning_curves, draw_transfer


def row(pretrained, random, verdict="helps"):
    auroc = {"pretrained": pretrained, "random": random, "difference": pretrained - random}
    for kind in ("pretrained", "random"):
        auroc |= {f"{kind}_low": auroc[kind] - 0.1, f"{kind}_high": min(auroc[kind] + 0.1, 1.0)}
    curve = {"n": [8, 16, 32]}
    for kind, top in (("pretrained", pretrained), ("random", random)):
        curve |= {kind: [0.5, None, top], f"{kind}_low": [0.4, None, top - 0.1], f"{kind}_high": [0.6, None, top]}
    return {"auroc": auroc, "verdict": verdict, "known": 100, "curve": curve}


NOTHING = {"auroc": None, "verdict": "not enough data to tell", "known": 3, "curve": None}


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def test_transfer_shows_both_networks_and_the_difference_and_leaves_out_what_is_not_measured():
    figure = draw_transfer({"a": row(0.9, 0.6), "$b$": row(0.7, 0.75, "no evidence"), "rare": NOTHING}, "net")
    axes = figure.axes[0]
    points = {line.get_label(): line.get_xdata() for line in axes.lines if not line.get_label().startswith("_")}
    assert list(points["pretrained weights"]) == [0.9, 0.7]
    assert list(points["random weights"]) == [0.6, 0.75]
    shown = texts(figure)
    assert "+0.30  helps" in shown
    assert "-0.05  no evidence" in shown
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "$b$"]
    assert axes.get_xlim()[0] <= 0.5


def test_of_many_labels_those_that_differ_most_are_shown():
    rows = {f"label {i}": row(0.5 + i / 200, 0.5) for i in range(90)}
    figure = draw_transfer(rows, "net")
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [f"label {i}" for i in range(89, 89 - MOST_ROWS, -1)]
    assert f"{MOST_ROWS} of 90 labels" in figure.get_suptitle()
    assert len(draw_learning_curves(rows, "net").axes) == MOST_CURVES


def test_learning_curves_leave_a_gap_where_nothing_is_defined():
    axes = draw_learning_curves({"a": row(0.9, 0.6), "rare": NOTHING}, "net").axes
    assert [one.get_title(loc="left") for one in axes] == ["a"]
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), [0.5, np.nan, 0.9])


def test_nothing_measured_draws_nothing():
    assert draw_transfer({"rare": NOTHING}, "net") is None
    assert draw_learning_curves({"rare": NOTHING}, "net") is None


def test_the_matrix_shows_per_cent_and_frames_what_is_sure():
    pairs = [{"a": "a", "b": "b", "verdict": "conflict"}, {"a": "a", "b": "c", "verdict": "no evidence"}]
    shared = {"labels": ["a", "b", "c"], "pairs": pairs}
    shared["affinity"] = [[0.1, -0.02, 0.001], [-0.03, 0.1, None], [0.0, None, 0.1]]
    figure = draw_affinity(shared)
    axes = figure.axes[0]
    values = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert values[1, 0] == pytest.approx(-3)
    assert np.isnan(np.diagonal(values)).all()
    assert axes.images[0].get_clim() == (-3, 3)
    frames = {(round(patch.get_x() + 0.46), round(patch.get_y() + 0.46)) for patch in axes.patches}
    assert frames == {(1, 0), (0, 1)}
    shown = texts(figure)
    assert "-3.00" in shown
    assert not any("nan" in text for text in shown)
