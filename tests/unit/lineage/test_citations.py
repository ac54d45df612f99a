"""Citations as plain text: what is recorded is written, what is not is not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineage import citations

OERLEMANS = {
    "type": "article-journal",
    "title": "Burnout and Daily Recovery: A Day Reconstruction Study",
    "author": [{"family": "Oerlemans", "given": "Wido G. M."}, {"family": "Bakker", "given": "Arnold B."}],
    "container-title": "Journal of Occupational Health Psychology",
    "volume": "19",
    "issue": "3",
    "page": "303-314",
    "issued": {"date-parts": [[2014]]},
}


def short(csl, url=None):
    return citations.short(citations.read(csl, url=url))


def citation_text(csl, *, url, doi):
    return citations.citation_text(citations.read(csl, url=url, doi=doi))


WHO = {
    "title": 'Burn-out an "occupational phenomenon"',
    "publisher": "World Health Organization",
    "issued": {"date-parts": [[2019, 5, 28]]},
}


def test_short_forms():
    assert short(OERLEMANS) == "Oerlemans & Bakker (2014)"
    assert short(WHO) == "World Health Organization (2019)"
    three = OERLEMANS | {"author": [*OERLEMANS["author"], {"family": "Third"}]}
    assert short(three) == "Oerlemans et al. (2014)"
    assert short({"title": "Work Trend Index", "publisher": "Microsoft"}) == "Microsoft (n.d.)"
    assert short({"title": "Burnout"}) == "“Burnout” (n.d.)"
    assert short({}, "https://example.org/a") == "https://example.org/a (n.d.)"
    assert short({"author": [{"literal": "The Team"}]}) == "The Team (n.d.)"


def test_whole_lines():
    assert citation_text(OERLEMANS, url="https://example.org", doi="10.1037/a0036904") == (
        "Oerlemans, W. G. M., & Bakker, A. B. (2014). Burnout and Daily Recovery: A Day Reconstruction Study. "
        "Journal of Occupational Health Psychology, 19(3), 303-314. https://doi.org/10.1037/a0036904"
    )
    assert citation_text(WHO, url="https://www.who.int/x", doi=None) == (
        'World Health Organization. (2019, May 28). Burn-out an "occupational phenomenon". https://www.who.int/x'
    )
    assert citation_text({"title": "Burnout"}, url="https://example.org", doi=None) == "Burnout. (n.d.). https://example.org"
    assert citation_text({}, url=None, doi=None) == "(n.d.)."


def test_a_publisher_is_named_once_and_a_question_keeps_its_mark():
    text = citation_text(WHO | {"title": "Is it real?"}, url=None, doi=None)
    assert text == "World Health Organization. (2019, May 28). Is it real?"


def test_many_authors():
    crowd = {"author": [{"family": f"A{n}", "given": "Jean-Paul"} for n in range(30)]}
    text = citation_text(crowd, url=None, doi=None)
    assert "A18, J.-P., … A29, J.-P. (n.d.)." in text
    assert "A19," not in text


@pytest.mark.parametrize(
    ("issued", "display", "year"),
    [
        ({"date-parts": [[2014]]}, "2014", 2014),
        ({"date-parts": [["2014", "1"]]}, "January 2014", 2014),
        ({"date-parts": [[2019, 5, 28]]}, "28 May 2019", 2019),
        ({"date-parts": [[2019, 13, 1]]}, "2019", 2019),
        ({"raw": "2024-01"}, "January 2024", 2024),
        ({"literal": "Spring 2020"}, "Spring 2020", None),
        ({"date-parts": [[]]}, "n.d.", None),
        ({"date-parts": [[None]]}, "n.d.", None),
        ({"date-parts": [[True]]}, "n.d.", None),
        ("2014", "n.d.", None),
        (None, "n.d.", None),
    ],
)
def test_dates(issued, display, year):
    found = citations.issued({"issued": issued})
    assert (found.display, found.year) == (display, year)


def test_markup_and_unseen_characters_go():
    assert citations.plain("<i>Burnout</i> &amp; <b>rest</b>") == "Burnout & rest"
    assert citations.plain("&lt;script&gt;alert(1)&lt;/script&gt;") == "alert(1)"
    assert citations.plain("<<b>i>x") == "x"
    assert citations.plain("a \u202eb\x00\n c") == "a b c"
    assert citations.plain("2 < 3 and 4 > 1") == "2 < 3 and 4 > 1"
    assert citations.plain(["First", "Second"]) == "First"
    assert citations.plain("   ") is None
    assert citations.plain({"a": 1}) is None


def test_particles_and_people_with_one_name():
    people = citations.authors(
        {"author": [{"family": "Beer", "given": "Leon T.", "non-dropping-particle": "de"}, {"given": "Plato"}, {}, "x", 3]}
    )
    assert [person.name for person in people] == ["de Beer", "Plato"]
    assert [person.as_json() for person in people] == [{"family": "de Beer", "given": "Leon T."}, {"literal": "Plato"}]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("family", "given", "literal", "date-parts", "raw", "x")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(("title", "author", "issued", "publisher", "container-title", "volume", "issue", "page")), ANYTHING))
def test_no_citation_breaks_the_card(csl):
    text = citation_text(csl, url="https://example.org", doi=None)
    assert text.endswith("https://example.org")
    for line in (text, short(csl), citations.issued(csl).display):
        assert "\n" not in line
        json.dumps(line).encode()
        line.encode()
