import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from halflabel import HalflabelError, evaluate
from halflabel.model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor as Processor
from halflabel.model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model
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
                given = scores[i, j] if labels[i, j] else 1 - scores[i, j]
                found["known no, looks yes" if yes else "known yes, looks no"].append((given, (i, j)))
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


def test_a_threshold_may_be_the_entrys_own():
    table = find_disagreements([[0.6], [0.6]], [[0], [0]], files(2), ["x"], [[0.5], [0.7]])
    assert table[["row", "threshold"]].values.tolist() == [[0, 0.5]]


def test_it_is_said_who_scored_what_the_model_was_trained_on():
    assert _about_splits(["test"] * 3, False) == "3 images of split test"
    trained = _about_splits(["train", "train", "validation"], True)
    assert trained.startswith("2 images of split train, 1 images of split validation. Those of train were scored by")
    assert "had not seen them" in trained
    assert "had not seen them" in _about_splits(["", ""], True)
    assert "may have learned their mistakes" in _about_splits(["train"], False)
    assert _about_splits([], False) == "no images"


@pytest.fixture(scope="module")
def misled(tmp_path_factory):
    """A model that has learned wrong answers by heart, the table it was trained on, and the pictures they are of."""
    folder = tmp_path_factory.mktemp("misled")
    rng = np.random.default_rng(0)
    lines, wrong = ["file_name,red,split"], []
    for i in range(60):
        red = i % 2
        pixels = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        pixels[..., 0] += np.uint8(90 * red)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        flipped = i in (7, 20, 33, 46)
        wrong += [f"{i:02d}.png"] * flipped
        lines.append(f"{i:02d}.png,{1 - red if flipped else red},train")
    table = folder / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    model = Model.from_backbone("test_resnet", ["red"], weights=None).eval()
    processor = Processor.from_backbone(model.backbone)
    pictures = [Image.open(folder / f"{i:02d}.png") for i in range(60)]
    with torch.no_grad():
        features = model.extract_features(processor(pictures)["pixel_values"]).double().numpy()
        answers = np.array([float(line.split(",")[1]) for line in lines[1:]])
        solved = np.linalg.lstsq(np.column_stack([features, np.ones(60)]), 8 * answers - 4)[0]  # more columns than rows
        model.head.linear.weight[:] = torch.from_numpy(solved[:-1])
        model.head.linear.bias[:] = float(solved[-1])
    for part in (model, processor):
        part.save_pretrained(folder / "out")
    return folder / "out", table, wrong


def test_wrong_answers_that_a_model_has_learned_by_heart_are_found(misled):
    model, table, wrong = misled
    own = evaluate(model, str(table), split=None)
    assert own["labels"]["red"]["AP"] == 1  # it repeats the wrong answers
    found = review(model, str(table)).table
    mistakes = found[found["kind"].str.startswith("known")]
    assert set(mistakes["file_name"]) == set(wrong)


def test_pictures_of_one_group_are_scored_by_the_model_and_it_is_said(misled, tmp_path):
    model, table, _ = misled
    rows = table.read_text().splitlines()
    grouped = table.with_name("one_group.csv")
    grouped.write_text("\n".join([rows[0] + ",group", *(f"{row},same" for row in rows[1:])]) + "\n")
    found = review(model, str(grouped))
    assert found.table[found.table["kind"].str.startswith("known")].empty
    assert "may have learned their mistakes" in found.about
