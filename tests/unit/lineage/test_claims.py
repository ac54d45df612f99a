"""Sentences for the public: each says no more than its counts."""

import pytest

from lineage.claims import Facts, Written, base_note, counted, disclosure, lines, listed, named, sentence

MODEL = Written("synthesised", "a model", 512, 40)
PEOPLE = Written("human", None, 100)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            Facts((MODEL,), 512, {"abstract": 4, "excerpt": 2}),
            "512 example conversations, written by a model from abstracts and excerpts of 6 documents, trained this adapter.",
        ),
        (
            Facts((Written("synthesised", "a model", 1),), 1, {"full_text": 1}),
            "1 example conversation, written by a model from the full text of 1 document, trained this adapter.",
        ),
        (
            Facts((MODEL,), 512, {"abstract": 1, "metadata_only": 2, None: 1}),
            (
                "512 example conversations, written by a model from the abstract of 1 document, the bibliographic record alone of 2 documents and "
                "1 document of which it is not recorded how much was read, trained this adapter."
            ),
        ),
        (
            Facts((MODEL,), 500, {None: 3}),
            (
                "512 example conversations, written by a model, trained this adapter. 500 of them rest on 3 documents of which it is not recorded "
                "how much was read; 12 name no source."
            ),
        ),
        (Facts((MODEL,), 0), "512 example conversations, written by a model, trained this adapter. None of them names a source."),
        (
            Facts((PEOPLE,), 100, {None: 80}),
            (
                "100 example conversations, written by people, trained this adapter. They rest on 80 documents of which it is not recorded how "
                "much was read."
            ),
        ),
        (
            Facts((MODEL, PEOPLE, Written("edited", "an editor", 8)), 620, {"excerpt": 9}),
            (
                "620 example conversations trained this adapter: 512 written by a model, 8 written by people and an editor together and 100 "
                "written by people. They rest on excerpts of 9 documents."
            ),
        ),
        (
            Facts(tuple(Written("synthesised", f"model {n}", 10) for n in range(5)), 50, {"excerpt": 9}),
            "50 example conversations, written by model 0, model 1, model 2 and 2 more models from excerpts of 9 documents, trained this adapter.",
        ),
        (Facts(), "No example conversation is recorded for this adapter."),
        (Facts(kind="full"), "No example conversation is recorded for this model."),
        (
            Facts((MODEL,), 0, kind="full"),
            "512 example conversations, written by a model, trained this model. None of them names a source.",
        ),
    ],
)
def test_the_sentence(facts, expected):
    assert sentence(facts) == expected


def test_the_lines():
    assert lines(Facts((MODEL, PEOPLE), 612, {"abstract": 1}, peer_reviewed=1, publishers=("WHO", "McKinsey", "A", "B", "C"))) == [
        "1 peer-reviewed study",
        "Material from WHO, McKinsey, A and 2 more publishers",
        "512 example conversations written by an AI model; 40 recorded as read by people",
        "100 example conversations written by people",
        "Testing by domain experts: not yet",
    ]
    assert lines(Facts()) == []
    assert "none recorded as read by people" in lines(Facts((Written("synthesised", "m", 3),)))[0]


def test_no_word_that_the_records_cannot_carry():
    words = " ".join(
        [sentence(Facts((MODEL, PEOPLE), 10, {None: 1})), *lines(Facts((MODEL,), 1, peer_reviewed=9)), disclosure("Elena")]
    ).lower()
    for claim in ("expertise", "clinical", "literally", "trained on these sources", "validated", "never", "only platform", "rule-checked"):
        assert claim not in words


def test_what_is_said_of_the_base():
    assert base_note("hub", "mistralai/Mistral-7B-Instruct-v0.3", "a note").endswith("whose maker has not published its training data.")
    assert "has published" in base_note("hub", "HuggingFaceTB/SmolLM2-135M-Instruct", None)
    assert "not published" not in base_note("local", "my-model", None)
    assert base_note("builtin", "builtin/tiny", "It is tiny.") == "It is tiny."
    assert "does not speak sense" in base_note("builtin", "builtin/tiny", None)


def test_generators_are_counted_over_origins():
    facts = Facts((MODEL, Written("edited", "a model", 8), Written("synthesised", None, 1), PEOPLE))
    assert facts.generators == [("a model", 520), ("a model that is not recorded", 1)]
    assert (facts.total, facts.read_by_people, facts.by_origin("human")) == (621, 40, 100)


def test_little_words():
    assert (counted(1, "study", "studies"), counted(1200, "study", "studies")) == ("1 study", "1,200 studies")
    assert (listed([]), listed(["a"]), listed(["a", "b"]), named(["a", "b", "c", "d"], "x")) == ("", "a", "a and b", "a, b, c and 1 more x")
