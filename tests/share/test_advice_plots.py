from halflabel.share.advice_plots import MOST_ROWS, draw_transfer


def row(pretrained, random, verdict="helps"):
    auroc = {"pretrained": pretrained, "random": random, "difference": pretrained - random}
    for kind in ("pretrained", "random"):
        auroc |= {f"{kind}_low": auroc[kind] - 0.1, f"{kind}_high": min(auroc[kind] + 0.1, 1.0)}
    return {"auroc": auroc, "verdict": verdict}


NOTHING = {"auroc": None, "verdict": "not enough data to tell"}


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


def test_nothing_measured_draws_nothing():
    assert draw_transfer({"rare": NOTHING}, "net") is None
