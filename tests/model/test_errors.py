from halflabel.model.errors import did_you_mean, nearest_file, printable, reason_of, shortlist


def test_near_names_are_offered_and_far_ones_are_not():
    assert did_you_mean("resnt50", ["resnet50", "vit"]) == "; did you mean resnet50?"
    assert did_you_mean("abc", ["abd", "abe"]) == "; did you mean abe or abd?"
    assert did_you_mean("zzz", ["resnet50"]) == ""


def test_the_file_beside_a_misspelt_one_is_offered(tmp_path, monkeypatch):
    (tmp_path / "Labels.csv").touch()
    (tmp_path / "photos").mkdir()
    assert nearest_file(tmp_path / "label.csv") == f"; did you mean {tmp_path / 'Labels.csv'}?"
    assert nearest_file(f"{tmp_path}/phtos/") == f"; did you mean {tmp_path / 'photos'}?"
    assert nearest_file(tmp_path / "other.csv") == ""
    assert nearest_file(tmp_path / "none" / "labels.csv") == ""
    assert nearest_file("nul\0/labels.csv") == ""
    monkeypatch.chdir(tmp_path)
    assert nearest_file("label.csv") == "; did you mean Labels.csv?"


def test_shortlist_counts_what_it_leaves_out():
    assert shortlist("abcdefg", limit=3) == "a, b, c and 4 more"
    assert shortlist("ab") == "a, b"


def test_what_another_library_says_fits_into_a_line_and_long_paths_stay_whole():
    path = "/a" * 120 + "/config.json"
    assert reason_of(OSError(f"It looks like\n  {path!r} is not JSON")) == f"It looks like {path!r} is not JSON"
    assert reason_of(OSError("refused\nfor details see"), first_line=True) == "refused"
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(OSError("x" * 1000)) == "x" * 399 + "…"


def test_what_moves_the_cursor_or_turns_the_direction_is_shown_as_a_code():
    assert printable("a\x1b[2J\u202eb\n\x9b") == r"a\x1b[2J\u202eb\n\x9b"
    assert printable("caf\udce9.png") == r"caf\xe9.png"  # a file name in Latin-1
    assert printable("漢字 é عربى 👩\u200d🚀\t|") == "漢字 é عربى 👩\u200d🚀\t|"
