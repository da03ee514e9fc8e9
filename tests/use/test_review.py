import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halflabel import HalflabelError
from halflabel.use.review import KINDS, _about_splits, find_disagreements, margins, review


def listed(table, kind):
    return list(table[table["kind"] == kind][["row", "label"]].itertuples(index=False, name=None))


def files(count):
    return [f"{i}.jpg" for i in range(count)]


def margin_by_hand(score, threshold):
    threshold = min(threshold, 1.0)
    if score >= threshold:
        return (score - threshold) / (1 - threshold) if threshold < 1 else 0.0
    return (score - threshold) / threshold


def by_loops(scores, labels, thresholds, limit):
    """All entries of each kind in order, with Python's own stable sort."""
    found = {kind: [] for kind in KINDS}
    for i in range(len(scores)):
        for j in range(len(thresholds)):
            margin = margin_by_hand(scores[i, j], thresholds[j])
            yes = scores[i, j] >= min(thresholds[j], 1.0)
            if labels[i, j] < 0:
                found["unknown, surely yes" if yes else "unknown, surely no"].append((-abs(margin), (i, j)))
                found["unknown, least sure"].append((abs(margin), (i, j)))
            elif yes != bool(labels[i, j]):
                found["known no, looks yes" if yes else "known yes, looks no"].append((-abs(margin), (i, j)))
    return {kind: [place for _, place in sorted(rows, key=lambda row: row[0])[:limit]] for kind, rows in found.items()}


@given(st.integers(0, 10**6), st.integers(0, 25), st.integers(1, 4), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_the_order_is_that_of_loops(seed, rows, columns, limit):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 9, (rows, columns)) / 8  # exact in binary, and many ties
    labels = rng.choice([0, 1, -100, -101], (rows, columns))
    thresholds = rng.choice([0.0, 0.25, 0.5, 1.0, 2.0], columns)
    table = find_disagreements(scores, labels, files(rows), list(range(columns)), thresholds, limit)
    expected = by_loops(scores, labels, thresholds, limit)
    for kind in KINDS:
        assert listed(table, kind) == expected[kind], kind


def test_planted_mistakes_come_first():
    """Labels from rare to common, some of whose scores are shifted or squeezed; 5 % of the known answers are wrong."""
    rng = np.random.default_rng(0)
    rows, share = 2000, np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
    truth = (rng.random((rows, 6)) < share).astype(int)
    logits = 9 * (truth - 0.5) + rng.normal(0, 1, truth.shape)
    logits = logits * [1, 0.5, 2, 1, 0.5, 1] + [0, 1, 0, -2, -1, 1]
    known = rng.random(truth.shape) < 0.5
    wrong = known & (rng.random(truth.shape) < 0.05)
    labels = np.where(known, np.where(wrong, 1 - truth, truth), -100)
    names = list("abcdef")
    thresholds = 1 / (1 + np.exp(-np.array([0, 1, 0, -2, -1, 1])))  # in the middle between yes and no
    table = find_disagreements(1 / (1 + np.exp(-logits)), labels, files(rows), names, thresholds, limit=10**6)
    for kind, answer in (("known no, looks yes", 0), ("known yes, looks no", 1)):
        planted = {(i, names[j]) for i, j in np.argwhere(wrong & (labels == answer))}
        assert len(planted) > 40
        first = listed(table, kind)[: len(planted)]
        assert len(planted & set(first)) >= 0.9 * len(planted)


def test_a_row_tells_everything_about_its_entry():
    table = find_disagreements(
        [[0.9, 0.2], [0.1, 0.7]], [[0, -101], [1, -100]], ["a.jpg", "b.jpg"], ["x", "y"], [0.5, 0.6]
    )
    first = table.iloc[0].to_dict()
    assert first == {
        "kind": "known no, looks yes", "rank": 1, "file_name": "a.jpg", "label": "x", "known": "no", "score": 0.9,
        "threshold": 0.5, "margin": pytest.approx(0.8), "row": 0,
    }  # fmt: skip
    assert table["known"].tolist() == ["no", "yes", "unknown", "uncertain", "unknown", "uncertain"]
    assert table["rank"].tolist() == [1, 1, 1, 1, 1, 2]
    assert table["margin"].tolist() == pytest.approx([0.8, -0.8, 0.25, -2 / 3, 0.25, -2 / 3])


def test_labels_with_other_thresholds_are_compared_by_the_share_of_the_way():
    assert margins([0.55, 0.55, 0.0, 1.0], [0.1, 0.9, 0.5, 0.5]) == pytest.approx([0.5, -0.35 / 0.9, -1, 1])
    assert margins([0.3, 0.0, 1.0], [2.0, 0.0, 1.0]).tolist() == pytest.approx([-0.7, 0, 0])


def test_agreement_everywhere_is_an_empty_list_of_disagreements():
    table = find_disagreements([[0.9], [0.1]], [[1], [0]], files(2), ["x"], 0.5)
    assert table.empty
    assert "margin" in table.columns
    assert find_disagreements(np.empty((0, 1)), np.empty((0, 1), int), [], ["x"], 0.5).empty


@pytest.mark.parametrize(
    ("scores", "labels", "names", "message"),
    [
        ([[1.2]], [[1]], ["x"], "probabilities in 0..1"),
        ([[1.2]], [[-100]], ["x"], "also those of unknown entries"),
        ([[np.nan]], [[-100]], ["x"], "also those of unknown entries"),
        ([[0.2]], [[1]], ["x", "y"], "1 file names and 2 labels do not fit"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, labels, names, message):
    with pytest.raises(HalflabelError, match=message):
        find_disagreements(scores, labels, files(1), names, 0.5)


def test_a_list_without_an_entry_is_refused_before_any_work():
    with pytest.raises(HalflabelError, match="limit is 0, expected at least 1"):
        review("nowhere", "nowhere", limit=0)


def test_scores_of_training_images_are_said_to_be_optimistic():
    assert _about_splits(["test"] * 3) == "3 images of split test"
    trained = _about_splits(["train", "train", "validation"])
    assert trained.startswith("2 images of split train, 1 images of split validation. ")
    assert "trained" in trained
    assert "may have learned their mistakes" in trained
    assert _about_splits(["", ""]).startswith("2 images of no split. If the model was trained on them")
    assert _about_splits([]) == "no images"
