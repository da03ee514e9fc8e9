import itertools
import os

import numpy as np
import pytest
from reading import check, error_of, write_files

from halflabel.data.images import build_images, from_records
from halflabel.data.merging import SAMPLE, map_labels, merge, repeat_contradictions, same_images, similar_names, stack
from halflabel.data.source import Source

X, U = -100, -101


def part(name, labels, rows):
    """A source: rows of (content, answers, split, group), the last two optional."""
    records = []
    for i, (content, answers, *texts) in enumerate(rows):
        split, group = (*texts, "", "")[:2]
        picture = {"bytes": content.encode(), "path": None}
        texts = {"file_name": f"{name}{i}", "split": split, "group": group, "source": name}
        records.append({"image": picture, "labels": answers, **texts})
    return from_records(records, labels)


def merged(*parts, policy="error"):
    return merge(parts, policy)


def one_label(name, *answers):
    """A source of pictures of equal content."""
    return part(name, ["x"], [("s", [answer]) for answer in answers])


def test_labels_become_a_union_and_are_unknown_where_nobody_asked():
    images, report = merged(
        part("A", ["car", "dog"], [("1", [1, 0]), ("2", [X, U])]), part("B", ["dog", "sign"], [("3", [1, 0])])
    )
    check(images, names=("car", "dog", "sign"), labels=[[1, 0, X], [X, U, X], [X, 1, 0]], source=["A", "A", "B"],
          file_name=["A0", "A1", "B0"])  # fmt: skip
    assert (report.joined, report.contradictions, report.similar_names) == (0, [], [])


def test_the_report_keeps_what_each_source_knows():
    _, report = merged(part("A", ["car"], [("1", [1]), ("2", [U])]), part("B", ["dog", "car"], [("1", [0, X])]))
    (first, second) = report.sources.items()
    assert (first[0], first[1][0], second[0], second[1][0]) == ("A", ("car",), "B", ("dog", "car"))
    assert (first[1][1].known.tolist(), first[1][1].uncertain.tolist(), first[1][1].images) == ([1], [1], 2)
    assert (second[1][1].known.tolist(), second[1][1].images) == ([1, 0], 1)
    _, report = merged(part("A", ["car"], [("1", [1])]), part("A", ["dog"], [("2", [1])]))
    assert list(report.sources) == ["A", "A (2)"]


def test_one_source_is_left_as_it_is():
    alone = part("A", ["car"], [("1", [1], "train", "g"), ("1", [0], "test", "")])
    images, report = merged(alone)
    assert images is alone
    assert (report.joined, report.contradictions) == (0, [])


def test_a_picture_in_two_sources_joins_its_labels():
    images, report = merged(
        part("A", ["car", "dog", "cat"], [("same", [1, X, U]), ("other", [0, 0, 0])]),
        part("B", ["dog", "car", "cat"], [("more", [1, 1, 1]), ("same", [0, X, 0])]),
    )
    check(images, labels=[[1, 0, 0], [0, 0, 0], [1, 1, 1]], source=["A + B", "A", "B"], file_name=["A0", "A1", "B0"])
    assert (report.joined, report.contradictions) == (1, [])


@pytest.mark.parametrize(("one", "other", "joined"), [(X, X, X), (X, U, U), (U, U, U), (U, 1, 1), (X, 0, 0), (1, 1, 1)])
def test_what_is_known_goes_before_uncertain_and_that_before_unknown(one, other, joined):
    for first, second in ((one, other), (other, one)):
        images, report = merged(one_label("A", first), one_label("B", second))
        check(images, labels=[[joined]])
        assert report.contradictions == []


def test_contradictions_are_all_told():
    names = ["car", "dog"]
    parts = [part("A", names, [("s", [1, 0]), ("t", [0, X])]), part("B", names, [("t", [1, 1]), ("s", [0, 1])])]
    told = [
        "'A0' = 'B1': 'car' is 1 and 0 (1 in A; 0 in B)",
        "'A0' = 'B1': 'dog' is 0 and 1 (0 in A; 1 in B)",
        "'A1' = 'B0': 'car' is 0 and 1 (0 in A; 1 in B)",
    ]
    assert error_of(merged, *parts) == f"data: {'; '.join(told)}"
    for policy, labels in (("unknown", [[X, X], [X, 1]]), ("first", [[1, 0], [0, 1]])):
        images, report = merged(*parts, policy=policy)
        check(images, labels=labels)
        assert report.contradictions == told


@pytest.mark.parametrize(
    "answers", sorted(set(itertools.permutations([1, 0, 1]))) + sorted(set(itertools.permutations([1, 0, X, U])))
)
def test_a_third_source_does_not_settle_a_contradiction(answers):
    parts = [one_label(name, answer) for name, answer in zip("ABCD", answers, strict=False)]
    images, report = merged(*parts, policy="unknown")
    check(images, labels=[[X]])
    assert (len(report.contradictions), report.joined) == (1, len(parts) - 1)
    first = next(answer for answer in answers if answer >= 0)
    check(merged(*parts, policy="first")[0], labels=[[first]])


def test_equality_carries_over_between_three_sources(tmp_path):
    """A and B share a file, B and C its content."""
    write_files(tmp_path, {"a": "same", "copy": "same"})
    (tmp_path / "link").symlink_to(tmp_path / "a")
    parts = [
        build_images([file], [str(tmp_path / file)], np.array([answers], np.int8), ["x", "y", "z"], sources=[name])
        for name, file, answers in (("A", "a", [1, X, X]), ("B", "link", [X, 0, X]), ("C", "copy", [X, X, 1]))
    ]
    for order in itertools.permutations(parts):
        images, report = merged(*order)
        check(images, labels=[[1, 0, 1]])
        assert report.joined == 2


def test_a_repeat_within_one_source_is_data():
    images, report = merged(
        part("A", ["x", "y"], [("s", [1, X]), ("s", [0, X]), ("t", [1, 1])]), part("B", ["x", "y"], [("u", [0, 0])])
    )
    check(images, labels=[[1, X], [0, X], [1, 1], [0, 0]])
    assert report.joined == 0
    assert report.contradictions == ["'A0' = 'A1': 'x' is 1 and 0 (1 in A; 0 in A)"]
    images, report = merged(part("B", ["x"], [("u", [0])]), one_label("A", X, 1))
    check(images, labels=[[0], [X], [1]])  # nothing is filled in either
    assert report.contradictions == []
    images = part("A", ["x", "y"], [("s", [1, 0]), ("t", [1, 1]), ("s", [0, 0]), ("t", [X, 1]), ("s", [U, X])])
    told = ["'A0' = 'A2' = 'A4': 'x' is 1 and 0 (1 in A; 0 in A)"]  # of one source alone
    assert repeat_contradictions(images, same_images([images])) == told
    check(images, labels=[[1, 0], [1, 1], [0, 0], [X, 1], [U, X]])


def test_a_picture_with_many_names_is_told_by_a_few():
    _, report = merged(one_label("A", *(i % 2 for i in range(7))), part("B", ["x"], [("t", [1])]))
    told = "'A0' = 'A1' = 'A2' = 'A3' = 'A4' = 2 more: 'x' is 0 and 1 (0 in A; 1 in A)"
    assert report.contradictions == [told]


@pytest.mark.parametrize("policy", ["error", "unknown", "first"])
def test_a_repeat_in_the_first_source_stays_and_both_rows_learn(policy):
    images, report = merged(
        part("A", ["x", "y"], [("s", [1, X]), ("s", [0, X])]), part("B", ["x", "y"], [("s", [X, 1])]), policy=policy
    )
    check(images, labels=[[1, 1], [0, 1]], source=["A + B", "A + B"])
    assert report.joined == 1
    assert report.contradictions == ["'A0' = 'A1' = 'B0': 'x' is 1 and 0 (1 in A; 0 in A)"]


def test_a_repeat_in_a_later_source_joins_the_first():
    rows = [("s", [1, X]), ("s", [1, 0])]
    images, report = merged(part("A", ["x", "y"], [("s", [X, X])]), part("B", ["x", "y"], rows))
    check(images, labels=[[1, 0]])
    assert report.joined == 2
    parts = one_label("A", X), one_label("B", 0, 1)
    assert "'A0' = 'B0' = 'B1': 'x' is 0 and 1 (0 in B; 1 in B)" in error_of(merged, *parts)
    check(merged(*parts, policy="unknown")[0], labels=[[X]])
    check(merged(*parts, policy="first")[0], labels=[[0]])


def test_a_split_is_taken_over_and_two_are_refused_whatever_the_policy():
    one, other = part("A", ["x"], [("s", [1]), ("t", [1], "test")]), part("B", ["x"], [("s", [1], "train"), ("t", [1])])
    check(merged(one, other)[0], split=["train", "test"])
    clash = part("C", ["x"], [("s", [1], "validation")])
    told = "data: 'A0' = 'B0' = 'C0' (A and B and C): the same picture is in the splits train and validation"
    for policy in ("error", "unknown", "first"):
        assert error_of(merged, one, other, clash, policy=policy) == told
    within = part("A", ["x"], [("s", [1], "train"), ("s", [1], "test")])
    check(merged(within, one_label("B", 1))[0], split=["train", "test"])
    assert "in the splits test and train" in error_of(merged, within, part("B", ["x"], [("s", [1], "train")]))


def test_groups_get_their_source_in_front():
    images, _ = merged(part("A", ["x"], [("1", [1], "", "p1"), ("2", [1])]), part("B", ["x"], [("3", [1], "", "p1")]))
    check(images, group=["A: p1", "", "B: p1"])


def test_a_picture_ties_its_groups_together_and_these_tie_others():
    images, _ = merged(
        part("A", ["x"], [("1", [1], "", "a1"), ("2", [1], "", "a2"), ("3", [1], "", "a3"), ("4", [1])]),
        part("B", ["x"], [("1", [1], "", "b1"), ("5", [1], "", "b1"), ("6", [1], "", "b2"), ("4", [1], "", "b2")]),
        part("C", ["x"], [("5", [1], "", "c1"), ("7", [1], "", "c1"), ("2", [1], "", "c1"), ("8", [1], "", "c2")]),
    )  # fmt: skip
    contents = [row["bytes"].decode() for row in images.dataset["image"]]
    groups = dict(zip(contents, images.column("group"), strict=True))
    assert groups["1"]
    assert {groups[name] for name in "1257"} == {groups["1"]}
    assert groups["3"] == "A: a3"
    assert groups["4"] == groups["6"] == "B: b2"
    assert groups["8"] == "C: c2"


def test_many_pictures_are_joined():
    rng = np.random.default_rng(0)
    names = ["x", "y", "z"]
    parts = [
        part(name, names, [(str(i), rng.choice([1, 0, X, U], 3)) for i in rng.permutation(40)[:30]]) for name in "ABC"
    ]
    images, report = merged(*parts, policy="unknown")
    answers = {}
    for one in parts:
        for row, codes in zip(one.dataset["image"], one.labels.tolist(), strict=True):
            answers.setdefault(row["bytes"], []).append(codes)

    def joined(codes):
        if {0, 1} <= set(codes):
            return X
        return max(set(codes) & {0, 1}, default=U if U in codes else X)

    check(images, labels=[list(map(joined, zip(*given, strict=True))) for given in answers.values()])
    assert [row["bytes"] for row in images.dataset["image"]] == list(answers)
    assert report.joined == 90 - len(answers)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["traffic light", "traffic_light", "Traffic lights"], [("traffic light", "traffic_light", "Traffic lights")]),
        (["car", "Cars", "card"], [("car", "Cars")]),
        (["bus", "bu", "gas", "ga"], []),
        (["stop-sign", "STOP SIGN", "yield", "stop  sign"], [("stop-sign", "STOP SIGN", "stop  sign")]),
        (["+", "-", "?"], []),
        (["Straße", "STRASSE", "été", "e\u0301te\u0301"], [("Straße", "STRASSE"), ("été", "e\u0301te\u0301")]),
        (["a1", "a2"], []),
    ],
)
def test_near_identical_names(names, groups):
    assert similar_names(names) == groups


def test_near_identical_names_are_reported_and_kept_apart(caplog):
    images, report = merged(part("A", ["Traffic light"], [("1", [1])]), part("B", ["traffic_lights"], [("2", [0])]))
    check(images, names=("Traffic light", "traffic_lights"), labels=[[1, X], [X, 0]])
    assert report.similar_names == [("Traffic light", "traffic_lights")]
    assert "Traffic light, traffic_lights; label_map can join them" in caplog.text


def test_labels_are_renamed_dropped_and_joined():
    answers = [[1, 0, 1, 0], [0, 0, 0, 1], [X, 0, X, X], [U, 0, U, 0], [U, 1, 0, 0], [X, U, 1, 1]]
    images = part("A", ["car", "van", "dog", "cat"], [(str(i), row) for i, row in enumerate(answers)])
    mapped = map_labels(images, Source("A", label_map={"van": "car", "dog": None, "cat": "Cat"}))
    check(mapped, names=("car", "Cat"), labels=[[1, 0], [0, 1], [X, X], [U, 0], [1, 0], [U, 1]])
    swapped = map_labels(images, Source("A", label_map={"car": "van", "van": "car"}))
    check(swapped, names=("van", "car", "dog", "cat"), labels=answers)
    assert map_labels(images, Source("A")) is images


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"cars": "x"}, "A: label_map names no label 'cars'; did you mean car?"),
        ({"car": None}, "A: label_map drops every label"),
    ],
)
def test_a_label_map_that_does_not_fit(label_map, message):
    assert error_of(map_labels, part("A", ["car"], [("1", [1])]), Source("A", label_map=label_map)) == message


def test_an_unknown_policy():
    told = "contradictions: 'frist' is none of error, unknown, first; did you mean first?"
    assert error_of(merged, one_label("A", 1), policy="frist") == told


def test_stacked_images_are_not_compared():
    parts = [one_label("A", 1), part("B", ["y"], [("s", [0])])]
    check(stack(parts), labels=[[1, X], [X, 0]])
    assert stack(parts[:1]) is parts[0]


def files(*paths):
    return build_images([p.name for p in paths], [str(p) for p in paths], np.zeros((len(paths), 1), np.int8), ["x"])


def embedded(*contents):
    rows = [{"image": {"bytes": c, "path": None}, "file_name": "e", "labels": [0]} for c in contents]
    return from_records(rows, ["x"])


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def test_equal_content_is_the_same_picture(write):
    a, b, c, d = write("a", b"one"), write("b", b"two"), write("c", b"one"), write("d", b"three")
    assert same_images([files(a, b), files(c, d)]).tolist() == [0, 1, 0, 3]
    assert same_images([files(a, b, c, d)]).tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize("place", [0, SAMPLE, 3 * SAMPLE - 1])
def test_pictures_of_equal_size_differ_by_any_byte(write, place):
    content = bytearray(b"x" * 3 * SAMPLE)
    content[place] = 0
    a, b, c = write("a", b"x" * 3 * SAMPLE), write("b", bytes(content)), write("c", bytes(content))
    assert same_images([files(a, b, c)]).tolist() == [0, 1, 1]


def test_the_same_file_by_whatever_path(write, tmp_path):
    a = write("a", b"one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(a)
    os.link(a, tmp_path / "hard")
    detour = tmp_path / "folder" / ".." / "a"
    assert same_images([files(a), files(detour), files(tmp_path / "link", tmp_path / "hard")]).tolist() == [0] * 4


def test_being_the_same_carries_over(write, tmp_path):
    """Row 2 is row 1's file, and has row 0's content."""
    a, b = write("a", b"one"), write("b", b"one")
    (tmp_path / "link").symlink_to(b)
    assert same_images([files(a), files(b), files(tmp_path / "link")]).tolist() == [0, 0, 0]
    assert same_images([embedded(b"one"), files(b), files(tmp_path / "link")]).tolist() == [0, 0, 0]


def test_embedded_pictures_and_files_compare(write):
    parts = [embedded(b"one", b"two", b"one"), files(write("a", b"two"), write("b", b"three"))]
    assert same_images(parts).tolist() == [0, 1, 0, 1, 4]


def test_empty_files_are_not_the_same_picture(write):
    assert same_images([embedded(b"", b""), files(write("a", b""), write("b", b""))]).tolist() == [0, 1, 2, 3]


def test_only_a_selection_is_looked_at(write):
    images = files(write("a", b"one"), write("b", b"two"), write("c", b"one")).select([2, 1])
    assert same_images([images, embedded(b"two", b"one")]).tolist() == [0, 1, 1, 0]


def test_what_cannot_be_read_is_named(tmp_path):
    told = "image 'gone.png' cannot be read (No such file or directory)"
    assert error_of(same_images, [files(tmp_path / "gone.png")]) == told
    url = from_records([{"image": {"bytes": None, "path": "zip://a.png::x.zip"}, "labels": [0]}] * 2, ["x"])
    assert same_images([url]).tolist() == [0, 0]
