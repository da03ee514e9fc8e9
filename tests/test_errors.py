from halflabel.errors import did_you_mean, shortlist


def test_near_names_are_offered_and_far_ones_are_not():
    assert did_you_mean("resnt50", ["resnet50", "vit"]) == "; did you mean resnet50?"
    assert did_you_mean("abc", ["abd", "abe"]) == "; did you mean abe or abd?"
    assert did_you_mean("zzz", ["resnet50"]) == ""


def test_shortlist_counts_what_it_leaves_out():
    assert shortlist("abcdefg", limit=3) == "a, b, c and 4 more"
    assert shortlist("ab") == "a, b"
