"""Hypothesis in two lengths: a few seconds in every test run, and minutes with `-m slow`."""

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


@st.composite
def edits(draw, most=3):
    """Changes of a text: where (a share of its length), how many bytes go, and what comes."""
    one = st.tuples(st.floats(0, 1), st.integers(0, 8), st.sampled_from(PIECES) | st.binary(max_size=4))
    return draw(st.lists(one, min_size=1, max_size=most))


def apply(text, changes):
    """Return the text with changes made, one after another."""
    for share, gone, come in changes:
        at = round(share * len(text))
        text = text[:at] + come + text[at + gone :]
    return text
