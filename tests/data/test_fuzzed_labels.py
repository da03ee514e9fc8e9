"""What must hold of labels, their merging and hiding, of measures and of thresholds, whatever the numbers."""

import itertools
import json

import numpy as np
from fuzzing import EFFORT, fuzz
from hypothesis import strategies as st

from halflabel import LabelSpace, average_precision
from halflabel.data.images import from_records
from halflabel.data.merging import merge
from halflabel.data.splitting import hide_labels
from halflabel.decide.thresholds import fit_thresholds
from halflabel.metrics.report import evaluate_scores

UNKNOWN, UNCERTAIN = -100, -101
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)
NAMES = st.lists(TEXTS.map(str.strip).filter(bool), min_size=1, max_size=5, unique=True)


@EFFORT
def test_what_is_encoded_is_decoded(effort):
    def check(names, data):
        space = LabelSpace(names)
        answers = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(names, st.sampled_from([1, 0, None]))))
        row = space.encode(answers)
        assert space.decode(row) == {name: answers.get(name) for name in names}
        assert (space.encode(space.decode(row)) == row).all()

    fuzz(check, effort, 100, names=NAMES, data=st.data())


@st.composite
def sources(draw, truthful=True):
    """Three sources of some of four pictures with some of three labels; what is known never differs, or may."""
    truth = {(i, k): draw(st.integers(0, 1)) for i in range(4) for k in "abc"}
    parts = []
    for name in ("one", "two", "three"):
        labels = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
        rows = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
        records = []
        for i in rows:
            said = [(truth[i, k], UNKNOWN, UNCERTAIN) if truthful else (1, 0, UNKNOWN) for k in labels]
            records.append({
                "image": {"bytes": f"picture {i}".encode(), "path": None}, "file_name": f"{i}", "source": name,
                "labels": [draw(st.sampled_from(values)) for values in said],
            })  # fmt: skip
        parts.append(from_records(records, labels))
    return parts


def answers_of(images):
    """Each picture's answers, of all labels; order is left out, and so is whether a label was never asked."""
    rows = zip(images.column("file_name"), images.labels.tolist(), strict=True)
    found = {name: dict(zip(images.label_space.names, row, strict=True)) for name, row in rows}
    assert len(found) == len(images)
    return {name: {k: v for k, v in row.items() if v != UNKNOWN} for name, row in found.items()}


@EFFORT
def test_merging_is_associative_and_commutative_up_to_order(effort):
    def check(parts):
        one, two, three = parts
        whole = answers_of(merge(parts)[0])
        assert answers_of(merge([merge([one, two])[0], three])[0]) == whole
        assert answers_of(merge([one, merge([two, three])[0]])[0]) == whole
        for order in itertools.permutations(parts):
            assert answers_of(merge(order)[0]) == whole

    fuzz(check, effort, 4, parts=sources())


@EFFORT
def test_contradictions_are_unknown_in_any_order_and_the_first_answer_in_any_grouping(effort):
    def check(parts):
        one, two, three = parts
        whole = answers_of(merge(parts, "unknown")[0])
        assert all(answers_of(merge(order, "unknown")[0]) == whole for order in itertools.permutations(parts))
        said = [answers_of(part) for part in parts]
        for name, row in whole.items():
            for label in "abc":
                known = {part[name][label] for part in said if label in part.get(name, {})}
                assert row.get(label) == (known.pop() if len(known) == 1 else None)
        first = answers_of(merge(parts, "first")[0])
        assert answers_of(merge([merge([one, two], "first")[0], three], "first")[0]) == first
        assert answers_of(merge([one, merge([two, three], "first")[0]], "first")[0]) == first

    fuzz(check, effort, 4, parts=sources(truthful=False))


@EFFORT
def test_hiding_never_adds_knowledge_also_through_a_merge(effort):
    def check(parts, keep, seed):
        hidden = [part.with_labels(hide_labels(part.labels, keep=keep, seed=seed)) for part in parts]
        assert all(known_of(less) <= known_of(part) for less, part in zip(hidden, parts, strict=True))
        assert known_of(merge(hidden)[0]) <= known_of(merge(parts)[0])

    fuzz(check, effort, 4, parts=sources(), keep=st.floats(0, 1), seed=st.integers(0, 99))


def known_of(images):
    return {(name, k, v) for name, row in answers_of(images).items() for k, v in row.items() if v >= 0}


@st.composite
def measured(draw):
    """Scores, with ties and extremes, and labels, of which columns may be all yes, all no or all unknown."""
    images, labels = draw(st.integers(0, 12)), draw(st.integers(1, 4))
    scores = st.sampled_from([0.0, 1.0, 0.5, 0.5 - 2**-53, 5e-324]) | st.floats(0, 1)
    cells = draw(st.lists(scores, min_size=images * labels, max_size=images * labels))
    codes = draw(st.lists(st.sampled_from([1, 0, UNKNOWN, UNCERTAIN]), min_size=len(cells), max_size=len(cells)))
    return np.reshape(cells, (images, labels)).astype(float), np.reshape(codes, (images, labels)).astype(int)


def numbers(content):
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from numbers(value)
    elif isinstance(content, float):
        yield content


@EFFORT
def test_measures_see_known_entries_alone_and_are_numbers_or_none(effort):
    def check(case, data):
        scores, labels = case
        names = list("wxyz")[: labels.shape[1]]
        report = evaluate_scores(scores, labels, names)
        json.dumps(report, allow_nan=False)
        assert all(np.isfinite(value) for value in numbers(report))
        other = np.where(labels < 0, data.draw(st.floats(0, 1)), scores)
        assert evaluate_scores(other, np.where(labels < 0, UNKNOWN, labels), names) == report
        order = data.draw(st.permutations(range(len(scores))))
        again = evaluate_scores(scores[order], labels[order], names)
        np.testing.assert_allclose(list(numbers(again)), list(numbers(report)), atol=1e-12)
        for k, value in enumerate(average_precision(scores, labels)):
            assert np.isnan(value) == (not {0, 1} <= set(labels[:, k])) or 0 <= value <= 1

    fuzz(check, effort, 60, case=measured(), data=st.data())


OBJECTIVES = st.sampled_from(["f1", "f0.5", "f2", "precision>=0.9", "recall>=0.5", "rate=0.2"])


@EFFORT
def test_thresholds_see_known_entries_alone_and_keep_the_order_of_scores(effort):
    def check(case, objective, data):
        scores, labels = case
        if not {0, 1} <= set(labels.ravel()):
            return
        fitted = fit_thresholds(scores, labels, objective, min_known=1)
        values = np.asarray(fitted.values)
        assert values.shape == (labels.shape[1],)
        assert not np.isnan(values).any()
        other = np.where(labels < 0, data.draw(st.floats(0, 1)), scores)
        order = data.draw(st.permutations(range(len(scores))))
        for changed in (fit_thresholds(other, labels, objective, min_known=1),
                        fit_thresholds(scores[order], labels[order], objective, min_known=1)):  # fmt: skip
            assert (np.asarray(changed.values) == values).all()

    fuzz(check, effort, 60, case=measured(), objective=OBJECTIVES, data=st.data())
