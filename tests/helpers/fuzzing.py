"""Hypothesis in two lengths: a few seconds in every test run, and minutes with `-m slow`."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EFFORT = pytest.mark.parametrize(
    "effort",
    [pytest.param(1, id="short"), pytest.param(50, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)


def fuzz(check, effort, examples=40, **strategies):
    """Call `check` with so many examples of each strategy, and as many times more as the effort says."""
    chosen = settings(
        max_examples=examples * effort, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    chosen(given(**strategies)(check))()


PIECES = [b",", b";", b"\t", b'"', b'""', b"'", b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"../", b"/", b"\\",
          b"1", b"0", b"-1", b"2", b"nan", b"1e999", b"=1+1", b"{", b"}", b"[", b"]", b":", b"null", b"<", b">", b"&x;",
          b"*a", b"&a", b"!!python/name:os.system", b"x" * 300, "é漢\u2028".encode()]  # fmt: skip
WORDS = [b"", b"1", b"0", b"-1", b"1.0", b"yes", b"no", b"train", b"car", b"dog", b"new", b"a", b"b", b"d", b"a.png",
         b"b.png", b"d.png", b"10", b"12", b"13", b"99", b".5"]  # fmt: skip
WORD = re.compile(rb"[\w.+/-]+")


@st.composite
def edits(draw, most=3):
    """Changes of a text: where (a share of it), and a word in another's place, or bytes that go and that come."""
    place = st.sampled_from([i / 40 for i in range(41)])  # evenly, where floats are mostly 0 or 1
    word = st.tuples(place, st.none(), st.sampled_from(WORDS))
    bytes_ = st.tuples(place, st.integers(0, 8), st.sampled_from(PIECES) | st.binary(max_size=4))
    if draw(st.booleans()):
        return [draw(word)]  # which leaves most texts well-formed
    return draw(st.lists(word | bytes_, min_size=1, max_size=most))


def apply(text, changes):
    """Return the text with changes made, one after another."""
    for share, gone, come in changes:
        words = [found.span() for found in WORD.finditer(text)] if gone is None else []
        at = round(share * len(text))
        start, end = words[min(int(share * len(words)), len(words) - 1)] if words else (at, at + (gone or 0))
        text = text[:start] + come + text[end:]
    return text


@st.composite
def broken(draw, text, pieces, most=12):
    """A text in which up to three places have lost up to so many bytes and got one of the pieces, or any bytes."""
    data = bytearray(text.encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, most))] = draw(st.sampled_from(pieces) | st.binary(max_size=3))
    return bytes(data)
