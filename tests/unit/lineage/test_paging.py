"""Cursors: what comes back is what went in, and nothing else is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineage.paging import decode_cursor, encode_cursor
from registry.errors import Invalid

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)


@given(st.integers(0, 2**53), TEXT)
def test_a_cursor_comes_back(number, text):
    assert decode_cursor(encode_cursor(number, text), (int, str)) == [number, text]


@given(st.text(max_size=60))
def test_nothing_else_is_taken(cursor):
    with pytest.raises(Invalid, match="cursor"):
        decode_cursor(cursor, (int, str, str, str))


@pytest.mark.parametrize(
    "key", [("a",), (1, 2), (True, "a"), (-1, "a"), (2**53 + 1, "a"), (1, "\0"), (1, "\ud800"), (1.5, "a"), (None, "a"), ()]
)
def test_another_shape_is_refused(key):
    with pytest.raises(Invalid):
        decode_cursor(encode_cursor(*key), (int, str))


@pytest.mark.parametrize("cursor", ["", "é", "W" * 5000, "e30", "bnVsbA", "W10", "Ww", "W10=="])
def test_what_is_no_cursor(cursor):
    with pytest.raises(Invalid):
        decode_cursor(cursor, (int,))
