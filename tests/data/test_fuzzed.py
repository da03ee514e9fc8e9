"""What must hold whatever the input: of readers and damaged files, of labels, merging, hiding, measures, thresholds."""

import csv
import gzip
import itertools
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from fuzzing import EFFORT, apply, broken, edits, fuzz
from hypothesis import strategies as st
from reading import draw, write_files

from halflabel import HalflabelError, average_precision
from halflabel.data.images import from_records
from halflabel.data.loading import load_images
from halflabel.data.merging import merge
from halflabel.data.splitting import hide_labels
from halflabel.decide.thresholds import fit_thresholds
from halflabel.metrics.report import evaluate_scores

NAMES = ["a.png", "b.png", "c.png", "d.png"]
WIDE = [["file_name", "car", "dog", "split"], ["a.png", "1", "", "train"], ["b.png", "0", "1", "test"],
        ["c.png", "", "", ""], ["d.png", "yes", "no", "val"]]  # fmt: skip
LONG = [["file_name", "label", "value"], ["a.png", "car", "1"], ["b.png", "car", "0"], ["b.png", "dog", "1"],
        ["c.png", "dog", ""], ["d.png", "sign", "1"]]  # fmt: skip
OPEN = [["ImageID", "Source", "LabelName", "Confidence"], ["a", "verification", "/m/car", "1"],
        ["b", "verification", "/m/car", "0"], ["b", "verification", "/m/dog", "1"], ["c", "crowd", "/m/dog", "0"],
        ["d", "crowd", "/m/sign", "1"]]  # fmt: skip
CHEXPERT = [["Path", "Sex", "Edema", "Fracture", "Pneumonia", "Cardiomegaly"],
            *([name, "F", *answers] for name, answers in zip(NAMES, [["1.0", "", "-1.0", "0.0"], ["", "", "1.0", ""],
            ["0.0", "0.0", "0.0", "0.0"], ["-1.0", "", "", "1.0"]], strict=True))]  # fmt: skip
BOX = ".5 .5 .1 .1"


def comma(rows):
    return "\n".join(",".join(row) for row in rows) + "\n"


def objects(rows):
    return "\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]) + "\n"


def coco():
    """An instances file with an object a line; those of annotations are the last five."""
    images = [{"id": 10 + i, "file_name": name} for i, name in enumerate(NAMES)]
    pairs = [(10, 1), (10, 2), (11, 1), (12, 2), (13, 1)]
    annotations = [{"id": 90 + i, "image_id": image, "category_id": label} for i, (image, label) in enumerate(pairs)]
    lists = {"images": images, "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
             "annotations": annotations}  # fmt: skip
    parts = [f'"{name}": [\n' + ",\n".join(map(json.dumps, entries)) + "\n]" for name, entries in lists.items()]
    return "{" + ", ".join(parts) + "}"


def voc(name, *labels):
    things = "".join(f"<object><name>{label}</name><difficult>0</difficult></object>" for label in labels)
    return f"<annotation><filename>{name}</filename>{things}</annotation>"


# Format -> files, what is loaded, which of them is damaged, and of which lines (None: anywhere).
SOURCES = {
    "wide csv": ({"t.csv": comma(WIDE)}, "t.csv", "t.csv", range(1, 5)),
    "wide tsv": ({"t.tsv": comma(WIDE).replace(",", "\t")}, "t.tsv", "t.tsv", range(1, 5)),
    "wide jsonl": ({"t.jsonl": objects(WIDE)}, "t.jsonl", "t.jsonl", range(4)),
    "long csv": ({"t.csv": comma(LONG)}, "t.csv", "t.csv", range(1, 6)),
    "long jsonl": ({"t.jsonl": objects(LONG)}, "t.jsonl", "t.jsonl", range(5)),
    "open images": ({"train-labels.csv": comma(OPEN)}, "train-labels.csv", "train-labels.csv", range(1, 6)),
    "chexpert": ({"t.csv": comma(CHEXPERT)}, "t.csv", "t.csv", range(1, 5)),
    "image folder": ({"metadata.csv": comma(WIDE)}, ".", "metadata.csv", range(1, 5)),
    "coco": ({"a.json": coco()}, "a.json", "a.json", range(10, 15)),
    "voc": (
        {f"Annotations/{name[0]}.xml": voc(name, *labels)
         for name, labels in zip(NAMES, [["car"], ["dog"], [], ["car", "dog"]], strict=True)},
        ".", "Annotations/a.xml", None,
    ),
    "yolo": (
        {"classes.txt": "car\ndog\n", "labels/a.txt": f"0 {BOX}\n1 {BOX}\n", "labels/b.txt": f"1 {BOX}\n",
         "labels/c.txt": "", "labels/d.txt": f"0 {BOX}\n"},
        ".", "labels/a.txt", None,
    ),
    "yolo yaml": (
        {"data.yaml": "path: .\ntrain: images\nnames:\n  0: car\n  1: dog\n", "labels/a.txt": f"0 {BOX}\n",
         "labels/b.txt": "", "labels/c.txt": "", "labels/d.txt": ""},
        ".", "data.yaml", None,
    ),
}  # fmt: skip
FOLDERS = {"voc": "JPEGImages", "yolo": "images", "yolo yaml": "images"}
ANY_LINE = [name for name in SOURCES if name != "yolo yaml"]  # a damaged list of names may name every label anew


@pytest.fixture
def write(tmp_path):
    """Write a source by its name, and return what is loaded, the file that is damaged, and its content."""

    def make(name):
        files, source, file, _ = SOURCES[name]
        draw(write_files(tmp_path, files) / FOLDERS.get(name, ""), *NAMES)
        return tmp_path / source, tmp_path / file, (tmp_path / file).read_bytes()

    return make


def read(path):
    """Return each image's answers by file and label; None where a line tells what is wrong."""
    try:
        images = load_images(path if isinstance(path, dict) else str(path))
    except HalflabelError as error:
        line = str(error)
    else:
        assert set(np.unique(images.labels)) <= {1, 0, -100, -101}
        return answers_by_file(images)
    assert len(line.splitlines()) == 1
    assert len(line) < 6000
    return None


def answers_by_file(images):
    files = [file.rpartition("/")[2] for file in images.column("file_name")]
    rows = (dict(zip(images.label_space.names, row, strict=True)) for row in images.labels.tolist())
    return dict(zip(files, rows, strict=True))


def mentioned(text, name):
    """Which images a line speaks of."""
    if name == "coco":
        return {file for i, file in enumerate(NAMES) if str(10 + i).encode() in text}
    return {file for file in NAMES if file[: 1 if name == "open images" else None].encode() in text}


@EFFORT
@pytest.mark.parametrize("name", ANY_LINE)
def test_a_damaged_line_is_told_or_leaves_all_other_images_as_they_were(write, name, effort):
    source, file, whole = write(name)
    lines, before = SOURCES[name][3], read(source)
    assert len(before) == 4

    def check(line, changes):
        parts = [whole] if lines is None else whole.split(b"\n")
        at = 0 if lines is None else lines[line % len(lines)]
        damaged = apply(parts[at], changes)
        touched = mentioned(parts[at], name) | mentioned(damaged, name) if lines is not None else {"a.png"}
        parts[at] = damaged
        file.write_bytes(b"\n".join(parts))
        after = read(source)
        if after is None:
            return
        for image in set(NAMES) - touched:
            assert image in after
            for label, answer in before[image].items():
                assert after[image].get(label, answer) == answer

    fuzz(check, effort, line=st.integers(0, 11), changes=edits())


@EFFORT
@pytest.mark.parametrize("name", SOURCES)
def test_damage_anywhere_gives_images_or_one_line(write, name, effort):
    source, file, whole = write(name)

    def check(changes):
        file.write_bytes(apply(whole, changes))
        read(source)

    fuzz(check, effort, 25, changes=edits(most=8))


LANGUAGES = {
    "coco": b'{ } [ ] "id": "image_id" 1.0 true null NaN Infinity 1e999 -1 10 "../a.png" "\\ud800" \0'.split(b" "),
    "wide jsonl": b'{ } "x": 1 , [ ] "a" null \\ud800 \xff " NaN 1e999 \0'.split(b" "),
    "voc": [
        b"<", b">", b"</", b"/>", b"<!DOCTYPE a>", b"<!ENTITY e 'x'>", b"&e;", b"&#0;", b"&#10;", b"\0", b"\xff",
        b"<name>", b"</name>", b"<object>", b"</object>", b"<object/>", b"<filename/>", b"<difficult>", b"\n", b"a.png",
        b"../", b"1", b"2", b"dog", b"<?xml version='1.0' encoding='utf-16'?>", b"<![CDATA[", b"<!--", b"\xef\xbb\xbf",
    ],
    "yolo yaml": [
        b"names:", b"path: ", b"train: ", b"[", b"]", b"{", b"}", b"- ", b": ", b"\n", b"  ", b"\t", b"&a ", b"*a",
        b"<<: ", b"!!int ''", b"!!float ''", b"!!timestamp x", b"!!bool x", b"!!binary x", b"!!set {a}", b"~", b"yes",
        b"0", b"-1", b"..", b"/", b"images", b"\0", b"\xff", b"'\\ud800'", b"2024-13-45", b"1e999", b"nan", b"x" * 300,
    ],
}  # fmt: skip


@EFFORT
@pytest.mark.parametrize("name", LANGUAGES)
def test_pieces_of_its_own_language_anywhere_give_images_or_one_line(write, name, effort):
    source, file, whole = write(name)
    form = {"wide jsonl": "table", "yolo yaml": "yolo"}.get(name, name)

    def check(content, outside):
        file.write_bytes(content)
        read({"path": str(source), "format": form, "allow_outside": outside})

    fuzz(check, effort, 100, content=broken(whole.decode(), LANGUAGES[name]), outside=st.booleans())


@EFFORT
def test_an_archive_with_other_bytes_is_told_or_reads_the_same(write, effort):
    source, file, content = write("wide csv")
    whole, before, archive = gzip.compress(content, mtime=0), read(source), file.with_name("z.csv.gz")

    def check(changes):
        archive.write_bytes(apply(whole, changes))
        assert read(archive) in (None, before)

    fuzz(check, effort, changes=edits())


@EFFORT
@pytest.mark.parametrize("kind", ["table", "shards"])
def test_parquet_with_other_bytes_gives_images_or_one_line(write, kind, effort):
    file = write("wide csv")[1]
    folder, rows = file.parent, list(csv.DictReader(file.open()))
    if kind == "table":
        source = path = folder / "t.parquet"
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        (folder / "set").mkdir()
        source, path = folder / "set", folder / "set" / "train-00000-of-00001.parquet"
        table = datasets.Dataset.from_list(
            [{"image": str(folder / row["file_name"]), "positive": ["car"], "negative": ["dog"]} for row in rows]
        ).cast_column("image", datasets.Image())
        table.to_parquet(str(path))
    whole = path.read_bytes()
    datasets.disable_caching()

    def check(changes):
        path.write_bytes(apply(whole, changes))
        read(source)

    try:
        fuzz(check, effort, 25 if kind == "table" else 6, changes=edits())
    finally:
        datasets.enable_caching()


@pytest.mark.parametrize("column", ["file_name", "car", "split"])
def test_texts_of_parquet_that_are_not_utf8_are_told(tmp_path, column, write):
    write("wide csv")
    columns = {"file_name": ["a.png", "b.png"], "car": ["1", "0"], "split": ["train", "test"]}
    table = {name: pa.array(cells) for name, cells in columns.items()}
    table[column] = pa.array([b"\xff.png", b"1"]).view(pa.string())
    (tmp_path / "set").mkdir()
    for path in (tmp_path / "t.parquet", tmp_path / "set" / "t.parquet"):
        pa.parquet.write_table(pa.table(table), path)
    for source in (tmp_path / "t.parquet", tmp_path / "set"):
        assert read(source) is None


UNKNOWN, UNCERTAIN = -100, -101
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)
LABEL_NAMES = st.lists(TEXTS.map(str.strip).filter(bool), min_size=1, max_size=5, unique=True)


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
    found = answers_by_file(images)
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
def test_thresholds_see_known_entries_alone_and_keep_the_order_of_scores(effort, monkeypatch):
    monkeypatch.setattr("halflabel.decide.pooling.MIN_KNOWN", 1)

    def check(case, objective, data):
        scores, labels = case
        if not {0, 1} <= set(labels.ravel()):
            return
        fitted = fit_thresholds(scores, labels, objective)
        values = np.asarray(fitted.values)
        assert values.shape == (labels.shape[1],)
        assert not np.isnan(values).any()
        other = np.where(labels < 0, data.draw(st.floats(0, 1)), scores)
        order = data.draw(st.permutations(range(len(scores))))
        for changed in (fit_thresholds(other, labels, objective),
                        fit_thresholds(scores[order], labels[order], objective)):  # fmt: skip
            assert (np.asarray(changed.values) == values).all()

    fuzz(check, effort, 60, case=measured(), objective=OBJECTIVES, data=st.data())
