"""What a source is called: five spellings of one DOI, one spelling of a URL, and nothing that is not http(s)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.identifiers import identify


@pytest.mark.parametrize(
    "spelling",
    [
        "10.1037/A0036904",
        "doi:10.1037/a0036904",
        "DOI: 10.1037/a0036904",
        "https://doi.org/10.1037/a0036904",
        "http://dx.doi.org/10.1037/a0036904",
        "https://doi.org/10.1037%2Fa0036904",
    ],
)
def test_one_doi_in_many_spellings(spelling):
    found = identify(spelling)
    assert (found.key, found.url) == ("doi:10.1037/a0036904", "https://doi.org/10.1037/a0036904")


def test_a_url_keeps_its_query_and_loses_its_fragment():
    assert identify("HTTPS://Example.ORG:443/a/../b?id=5&utm_source=x#part").key == "https://example.org/b?id=5&utm_source=x"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ftp://example.org/x",
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "//example.org",
        "example",
        "http://",
        "https://user:pw@example.org/",
        "https://exa mple.org",
        "https://example.org/\0",
        "https://example.org/\u202e",
        "http://[::1",
        "https://example.org:99999/",
        "10.1037",
        "https://example.org/" + "a" * 3000,
    ],
)
def test_what_is_not_a_web_page_or_a_doi_is_refused(bad):
    with pytest.raises(Invalid):
        identify(bad)


@given(st.text(max_size=60))
def test_no_text_makes_it_fail_otherwise(text):
    for value in (text, "https://" + text, "doi:10.1234/" + text):
        try:
            found = identify(value)
        except Invalid:
            continue
        assert identify(found.url).key == found.key
