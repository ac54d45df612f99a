"""The grammar of names: every reference survives a round trip, every bad name gets a sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.refs import ByAlias, ByDigest, ByNumber, check_alias, check_slug, clean_text, format_ref, nearest, parse

slugs = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)


@given(slugs, st.integers(1, 999_999_999))
def test_a_numbered_reference_survives_a_round_trip(slug, number):
    assert parse(format_ref(ByNumber(slug, number))) == ByNumber(slug, number)


@given(slugs, st.from_regex(r"[a-z][a-z-]{0,20}", fullmatch=True).filter(lambda a: a not in {"latest", "versions"}))
def test_an_alias_reference_survives_a_round_trip(slug, alias):
    assert parse(format_ref(ByAlias(slug, alias))) == ByAlias(slug, alias)


def test_a_digest_survives_a_round_trip():
    ref = ByDigest("sha256:" + "0f" * 32)
    assert parse(format_ref(ref)) == ref


@pytest.mark.parametrize(
    "bad",
    [
        "Elena",
        "elena/../x",
        "elena\0",
        "el\u202eena",
        "elena\n",
        "",
        "-elena",
        "é",
        "e" * 64,
        "elena x",
        "elena:1",
        "elena.",
        "..",
        "%2e%2e",
    ],
)
def test_a_bad_slug_gets_a_sentence_in_plain_ascii(bad):
    with pytest.raises(Invalid) as caught:
        check_slug(bad)
    assert caught.value.message.isascii()
    assert "1-63 characters of a-z" in caught.value.message


@pytest.mark.parametrize(
    "bad", ["elena", "elena@", "@1", "elena@0", "elena@01", "elena@1@2", "sha256:12", "sha256:" + "G" * 64, "elena@Live", ""]
)
def test_a_bad_reference_is_refused(bad):
    with pytest.raises(Invalid):
        parse(bad)


@given(st.text(max_size=40))
def test_no_text_makes_the_parser_fail_otherwise(text):
    try:
        ref = parse(text)
    except Invalid:
        return
    assert parse(format_ref(ref)) == ref


@pytest.mark.parametrize("bad", ["1", "42", "latest", "versions", "sha256"])
def test_an_alias_cannot_look_like_a_version(bad):
    with pytest.raises(Invalid, match="cannot name an alias"):
        check_alias(bad)


@pytest.mark.parametrize("bad", ["a\0b", "a\x1b[31m", "a\u202eb", "a\ud800b", "a\u2066b"])
def test_text_that_cannot_be_shown_honestly_is_refused(bad):
    with pytest.raises(Invalid, match="control character"):
        clean_text(bad, "A name")


def test_nearest_suggests_only_what_looks_alike():
    assert nearest("elna", ["elena", "marcus"]) == "elena"
    assert nearest("zzzz", ["elena", "marcus"]) is None
