"""Reading training data: every faulty line is named, nothing is guessed, the persona stays out."""

import json

import pytest
from factories import jsonl, line
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.imports import Defaults, read_csl, read_csv, read_jsonl

MAPPING = {"instruction": ["q"], "response": ["a"], "source": ["url"], "title": ["q"], "author": ["who"]}


def read(*rows, **defaults):
    return read_jsonl(jsonl(*rows), "pairs.jsonl", Defaults(**defaults))


def sentence(*rows, text=None, **defaults):
    with pytest.raises(Invalid) as caught:
        read_jsonl(text if text is not None else jsonl(*rows), "pairs.jsonl", Defaults(**defaults))
    return caught.value.message


def test_a_pair_and_a_conversation_are_read_alike():
    turns = [
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "Hello.\r\nHow are you?"},
        {"role": "user", "content": "Tired."},
        {"role": "assistant", "content": "I hear you."},
    ]
    draft = read(line("Hi", "Hello."), {"messages": turns, "origin": "human"})
    assert draft.examples[0].messages == (("user", "Hi"), ("assistant", "Hello."))
    assert [role for role, _ in draft.examples[1].messages] == ["user", "assistant", "user", "assistant"]
    assert draft.examples[1].messages[1][1] == "Hello.\nHow are you?"


def test_prompt_and_completion_are_other_words_for_the_same():
    assert read({"prompt": "Hi", "completion": "Hello.", "origin": "human"}).examples == read(line("Hi", "Hello.")).examples


def test_sources_by_url_doi_and_object():
    draft = read(
        line(
            "Hi",
            sources=[
                "https://example.org/a",
                "doi:10.1037/A0036904",
                {
                    "url": "https://example.org/b",
                    "role": "question",
                    "extent": "abstract",
                    "retrieved_at": "2026-11-01T12:00:00+02:00",
                    "sha256": "a" * 64,
                },
            ],
        )
    )
    links = draft.examples[0].links
    assert [link.identifier.key for link in links] == ["https://example.org/a", "doi:10.1037/a0036904", "https://example.org/b"]
    assert links[2].role == "question"
    assert (links[2].document.extent, links[2].document.retrieved_at.isoformat(), links[2].document.sha256) == (
        "abstract",
        "2026-11-01T10:00:00+00:00",
        "sha256:" + "a" * 64,
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"instruction": "Hi"', "line 1: expected one JSON object a line"),
        ("[1]", "found a list"),
        ('{"instruction": "Hi", "response": NaN, "origin": "human"}', "NaN is not JSON"),
        (json.dumps({"instruction": "Hi", "origin": "human"}), "'response' is missing"),
        (json.dumps(line("Hi", "")), "response in turn 2 is empty"),
        (json.dumps(line("  ")), "question in turn 1 is empty"),
        (json.dumps({"instruction": "Hi", "response": "x"}), "expected an origin"),
        (json.dumps(line("Hi") | {"origin": "found on the web"}), "expected an origin"),
        (json.dumps(line("Hi") | {"origin": "synthesised"}), "must name its generator"),
        (json.dumps(line("Hi", sources=["ftp://example.org"])), "http(s) URL or a DOI"),
        (json.dumps(line("Hi") | {"sources": "https://example.org"}), "to be a list"),
        (json.dumps(line("Hi", sources=[{"url": "https://example.org", "role": "hero"}])), "role to be answer or question"),
        (json.dumps(line("Hi", sources=[{"url": "https://example.org", "extent": "all of it"}])), "extent to be one of"),
        (json.dumps(line("Hi", sources=[{"title": "A book"}])), "must name its url or its doi"),
        (json.dumps(line("Hi\0")), "control character"),
        (json.dumps(line("Hi", "x\u202ey")), "control character"),
        (json.dumps({"messages": [], "origin": "human"}), "an empty list"),
        (json.dumps({"messages": [{"role": "assistant", "content": "x"}], "origin": "human"}), "user first; turn 1 is assistant"),
        (json.dumps({"messages": [{"role": "user", "content": "x"}], "origin": "human"}), "last turn must be the advisor's"),
        (json.dumps({"messages": [{"role": "user", "content": 5}], "origin": "human"}), "role and content as text"),
        (json.dumps({"messages": [{"role": "tool", "content": "x"}], "origin": "human"}), "role user, assistant or system"),
        (
            json.dumps({"messages": [{"role": "system", "content": "You are Elena"}], "origin": "human"}),
            "bake the persona into the weights",
        ),
        ("[" * 100_000, "line 1"),
    ],
)
def test_a_faulty_line_gets_its_sentence(row, words):
    found = sentence(text=row)
    assert found.startswith("pairs.jsonl line 1: ")
    assert words in found


def test_every_faulty_line_is_listed_up_to_twenty():
    found = sentence(*[line("Hi", "") for _ in range(25)])
    assert found.count("\n") == 20
    assert "line 20" in found
    assert "and 5 more" in found


def test_an_empty_file_is_refused():
    assert "holds no training pair" in sentence(text="\n\n")


def test_a_system_turn_is_taken_out_only_on_request():
    row = {
        "messages": [
            {"role": "system", "content": "You are Elena"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ],
        "origin": "human",
    }
    assert read(row, strip_system=True).examples[0].messages == (("user", "Hi"), ("assistant", "Hello"))


def test_fields_that_are_not_recorded_are_named():
    assert read(line("Hi", mood="blue")).notes == ("fields that are not recorded: mood",)


@given(st.text(max_size=80))
def test_no_text_makes_the_reader_fail_otherwise(text):
    try:
        read_jsonl(text, "x", Defaults(origin="human"))
    except Invalid as error:
        assert "x" in error.message  # noqa: PT017  # either outcome is right, another exception is not


def test_csv_by_a_mapping_makes_a_source_of_every_page():
    text = 'q,a,url,who\nWhy?,"Because.\nReally.",https://example.org/1,Ann\nWhy?,No idea.,https://example.org/1,Bob\nHow?,Slowly.,https://example.org/2,Ann\n'
    draft = read_csv(text, "chat.csv", MAPPING, Defaults(origin="human", source_class="community"))
    assert len(draft.examples) == 3
    assert [(s.key, s.csl["title"], [a["literal"] for a in s.csl["author"]], s.class_) for s in draft.sources] == [
        ("https://example.org/1", "Why?", ["Ann", "Bob"], "community"),
        ("https://example.org/2", "How?", ["Ann"], "community"),
    ]


def test_a_missing_column_is_named_with_the_nearest_one():
    with pytest.raises(Invalid) as caught:
        read_csv("question,answer\nx,y\n", "chat.csv", {"instruction": ["question"], "response": ["anwser"]}, Defaults(origin="human"))
    assert "has no column 'anwser'" in caught.value.message
    assert caught.value.hint == "Did you mean 'answer'?"


@pytest.mark.parametrize(
    ("text", "mapping", "words"),
    [
        ("", MAPPING, "is empty"),
        ("q,a,url,who\n", MAPPING, "holds no training pair"),
        ("q,a\n", {"instruction": ["q"]}, "which column is the response"),
        ("q,a\nx,y\n", {"instruction": ["q"], "response": ["a"], "mood": ["q"]}, "found 'mood'"),
        ("q,a,url,who\nx,,https://e.org,z\n", MAPPING, "line 2: the response"),
        ("q,a,url,who\nx,y,ftp://e.org,z\n", MAPPING, "line 2"),
        ('q,a,url,who\n"x,y\n', MAPPING, "not readable as CSV"),
    ],
)
def test_a_faulty_csv_gets_a_sentence(text, mapping, words):
    with pytest.raises(Invalid, match=r"(?s).*" + words):
        read_csv(text, "chat.csv", mapping, Defaults(origin="human"))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"title": "A book"}, "must carry a DOI or a URL"),
        ({"URL": "https://example.org"}, "must carry a title"),
        ({"title": "x", "URL": "javascript:alert(1)"}, "http"),
        ({"title": "x", "URL": "https://example.org", "custom": {"class": "gossip"}}, "custom.class"),
        ({"title": "x", "URL": "https://example.org", "custom": {"review_status": "liked"}}, "review_status"),
        ({"title": "x\u202e", "URL": "https://example.org"}, "control character"),
        ("x", "expected a citation as an object"),
        ({"title": "x", "URL": "https://example.org", "volume": 10**20}, "cannot carry exactly"),
    ],
)
def test_a_faulty_citation_is_named_by_its_place(item, words):
    with pytest.raises(Invalid, match=rf"sources.json item 1: (?s:.*){words}"):
        read_csl(json.dumps([item]), "sources.json")


def test_a_number_that_overflows_is_refused():
    with pytest.raises(Invalid, match="cannot carry exactly"):
        read_csl('[{"title": "x", "URL": "https://example.org", "volume": 1e999}]', "sources.json")


def test_a_class_that_is_none_is_refused_before_anything_is_read():
    with pytest.raises(Invalid, match="found 'gossip'"):
        read_csv("q,a,url,who\nx,y,https://example.org,z\n", "chat.csv", MAPPING, Defaults(origin="human", source_class="gossip"))


def test_a_citation_keeps_what_it_says_and_nothing_else():
    item = {
        "id": "x",
        "type": "report",
        "title": " Burn-out \n study ",
        "DOI": "10.1037/A0036904",
        "URL": "https://example.org/p",
        "custom": {"class": "academic", "review_status": "peer_reviewed", "documents": [{"extent": "abstract"}]},
    }
    (draft,) = read_csl(json.dumps([item]), "sources.json")
    assert draft.csl == {"type": "report", "title": "Burn-out study", "DOI": "10.1037/A0036904", "URL": "https://example.org/p"}
    assert [i.key for i in draft.identifiers] == ["doi:10.1037/a0036904", "https://example.org/p"]
    assert (draft.documents[0].extent, draft.documents[0].retrieved_at) == ("abstract", None)
