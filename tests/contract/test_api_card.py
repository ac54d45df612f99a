"""The Source Card: its numbers by the rules of honest claims, its states, its pages, its ETag, and two statements for all of it."""

import datetime as dt
from typing import Any

import factories
import pytest
from api_kit import CITATION, DOI, Api, add_live, counted, measured, pair, problem, promote, public_elena, withdraw_source
from sqlalchemy import update

from registry import advisors, versions
from registry.api.cards import EXAMPLE, SourceCard
from registry.models import BaseModel, Source

WHO = {
    "type": "webpage",
    "title": "Burn-out an occupational phenomenon",
    "publisher": "World Health Organization",
    "issued": {"date-parts": [[2019, 5, 28]]},
    "URL": "https://www.who.int/news/burn-out",
    "custom": {"class": "institutional", "review_status": "editorial", "documents": [{"extent": "excerpt"}]},
}


def body_of(response: Any) -> dict[str, Any]:
    """The card, checked against the documented shape, and against the number of anything its text may not hold."""
    assert response.status_code == 200, response.text
    card = response.json()
    SourceCard.model_validate(card)
    assert card["advisor"]["is_ai"] is True
    assert "<" not in card["summary"]["sentence"]
    return card


def mark(api: Api, key: str, **values: Any) -> None:
    """Change what is recorded of a source, as a check of its citation would."""
    with api.db.transaction() as session:
        session.execute(update(Source).where(Source.key == key).values(**values))


def test_the_example_in_the_documentation_has_the_shape():
    SourceCard.model_validate(EXAMPLE)


def test_the_whole_card(elena):
    with counted(elena.db) as statements:
        response = elena.card("dr-elena")
    assert len(statements) == 2
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "public, no-cache"
    card = body_of(response)
    version = elena.get("/advisors/elena/versions/1").json()
    source = card["groups"][0]["sources"][0]
    live_since = card["version"].pop("live_since")
    assert dt.datetime.fromisoformat(live_since).tzinfo is not None
    assert {**card, "generated_at": "", "groups": []} == {
        "schema": "source-card/1",
        "advisor": {
            "slug": "elena",
            "aliases": ["dr-elena"],
            "name": "Elena",
            "role": None,
            "is_ai": True,
            "disclosure": "Elena is an AI character, not a licensed professional.",
        },
        "state": "live",
        "alias": "live",
        "version": {"ref": "elena@1", "number": 1, "digest": version["digest"], "state": "ready", "dataset": version["dataset"]},
        "base_model": {
            "id": "test/base",
            "revision": "a" * 40,
            "kind": "hub",
            "note": "Builds on test/base; whether its maker has published its training data is not recorded here.",
        },
        "summary": {
            "sentence": "2 example conversations, written by a model from the abstract of 1 document, trained this adapter.",
            "lines": [
                "1 peer-reviewed study",
                "2 example conversations written by an AI model; none recorded as read by people",
                "Testing by domain experts: not yet",
            ],
        },
        "totals": {
            "sources": 1,
            "peer_reviewed": 1,
            "unchecked": 1,
            "failed_checks": 0,
            "withdrawn": 0,
            "by_class": [{"class": "academic", "label": "Academic research", "count": 1}],
            "documents": {"total": 1, "by_extent": [{"extent": "abstract", "label": "abstract", "count": 1}]},
            "examples": {
                "total": 2,
                "with_source": 2,
                "without_source": 0,
                "synthesised": 2,
                "edited": 0,
                "human_written": 0,
                "read_by_people": 0,
                "calibration_items": 0,
                "generators": [{"model": "a model", "count": 2}],
            },
        },
        "groups": [],
        "notices": [],
        "evaluated": None,
        "links": {
            "self": "/advisors/elena/sources",
            "bibliography": None,
            "methodology": None,
            "csl": None,
            "bibtex": None,
            "history": None,
        },
        "generated_at": "",
    }
    assert source["use"] == {"pairs": 2, "share": 1.0, "role": "answers"}
    assert source["documents"] == [{"extent": "abstract", "retrieved_at": None, "sha256": None}]
    assert [badge["id"] for badge in source["badges"]] == ["peer-reviewed", "citation-unchecked"]


def test_held_out_pairs_never_count(api):
    factories.add_advisor(api.db, public=True)
    rows = [pair(f"Question {n}?", url=f"https://example.org/page{n}") for n in range(20)]
    dataset = factories.add_dataset(api.db, rows, fraction=0.25)
    assert dataset.heldout_total == 5
    add_live(api.db, api.store)
    totals = body_of(api.card())["totals"]
    assert (totals["examples"]["total"], totals["sources"], totals["documents"]["total"]) == (15, 15, 15)


def test_only_sound_studies_count_as_peer_reviewed(elena):
    assert body_of(elena.card())["totals"]["peer_reviewed"] == 1
    for status, kind in (("mismatched", "mismatched"), ("not_found", "not_found"), ("retracted", "retracted")):
        mark(
            elena,
            "doi:10.1037/a0036904",
            check_status=status,
            check_registry="crossref",
            checked_at=dt.datetime(2026, 11, 20, tzinfo=dt.UTC),
        )
        card = body_of(elena.card())
        source = card["groups"][0]["sources"][0]
        assert (card["totals"]["peer_reviewed"], card["totals"]["failed_checks"], source["badges"]) == (0, 1, [])
        assert [(w["kind"], w["at"]) for w in source["warnings"]] == [(kind, "2026-11-20")]
        assert not [line for line in card["summary"]["lines"] if "peer-reviewed" in line]
        assert source["check"] == {"status": status, "at": "2026-11-20", "registry": "crossref"}
    mark(elena, "doi:10.1037/a0036904", check_status="verified")
    card = body_of(elena.card())
    assert (card["totals"]["peer_reviewed"], card["totals"]["unchecked"]) == (1, 0)
    assert card["groups"][0]["sources"][0]["badges"][1]["id"] == "citation-checked"


def test_people_generators_and_what_was_read(api):
    factories.add_advisor(api.db, public=True)
    page = {"url": "https://example.org/a", "role": "question"}
    rows = [
        pair("One?", read_by_people=True),
        pair("Two?", generator="another model"),
        pair("Three?", origin="edited", generator="a model"),
        pair("Four?", origin="human", url="https://example.org/forum"),
        factories.line("Five?", sources=[page, {"url": DOI, "role": "question"}], origin="synthesised", generator="a model"),
        factories.line("Six?"),
    ]
    factories.add_dataset(api.db, rows, csl=[CITATION, WHO])
    add_live(api.db, api.store)
    card = body_of(api.card())
    examples = card["totals"]["examples"]
    assert examples["generators"] == [{"model": "a model", "count": 3}, {"model": "another model", "count": 1}]
    assert [
        examples[k] for k in ("total", "with_source", "without_source", "synthesised", "edited", "human_written", "read_by_people")
    ] == [
        6,
        5,
        1,
        3,
        1,
        2,
        1,
    ]
    sources = {s["url"]: s for group in card["groups"] for s in group["sources"]}
    assert sources[DOI]["use"] == {"pairs": 4, "share": 0.6667, "role": "both"}
    assert sources["https://example.org/a"]["use"] == {"pairs": 1, "share": 0.1667, "role": "questions"}
    assert card["totals"]["documents"]["by_extent"] == [
        {"extent": "abstract", "label": "abstract", "count": 1},
        {"extent": None, "label": "not recorded", "count": 2},
    ]
    assert card["summary"]["sentence"].endswith("1 names no source.")
    assert "https://www.who.int/news/burn-out" not in sources  # cited by no pair, so it is no source of this version


def test_a_document_counts_once_however_many_pairs_rest_on_it(api):
    factories.add_advisor(api.db, public=True)
    moment = "2026-11-01T10:00:00Z"
    rows = [
        factories.line(f"Q{n}?", sources=[{"url": DOI, "extent": "full_text", "retrieved_at": moment, "sha256": "a" * 64}])
        for n in range(5)
    ]
    rows.append(factories.line("Q9?", sources=[{"url": DOI, "extent": "abstract"}]))
    factories.add_dataset(api.db, rows, csl=[CITATION])
    add_live(api.db, api.store)
    card = body_of(api.card())
    (source,) = card["groups"][0]["sources"]
    assert (source["use"]["pairs"], source["documents_total"], card["totals"]["sources"]) == (6, 2, 1)
    assert {"extent": "full_text", "retrieved_at": moment, "sha256": "sha256:" + "a" * 64} in source["documents"]


def test_citations_are_plain_text(api):
    factories.add_advisor(api.db, public=True)
    csl = CITATION | {"title": "<script>alert(1)</script> <i>Rest</i>", "author": [{"family": "A", "given": "B"}] * 12, "issued": {}}
    factories.add_dataset(api.db, [pair("Why?")], csl=[csl])
    add_live(api.db, api.store)
    (source,) = body_of(api.card())["groups"][0]["sources"]
    assert source["title"] == "alert(1) Rest"
    assert (len(source["authors"]), source["authors_total"], source["issued"]["display"]) == (10, 12, "n.d.")
    assert source["short"] == "A et al. (n.d.)"


def test_groups_are_ordered_and_paged(api):
    factories.add_advisor(api.db, public=True)
    rows = [pair(f"Q{n}?", url=f"https://example.org/p{n:02d}") for n in range(12)]
    rows += [pair(f"More {n}?", url="https://example.org/p07") for n in range(3)]
    rows.append(pair("Study?"))
    factories.add_dataset(api.db, rows, csl=[CITATION])
    add_live(api.db, api.store)
    with counted(api.db) as statements:
        card = body_of(api.card(query="?limit=5"))
    assert len(statements) == 2
    assert [(g["class"], g["order"], g["count"], len(g["sources"])) for g in card["groups"]] == [
        ("academic", 1, 1, 1),
        ("unclassified", 7, 12, 5),
    ]
    assert card["groups"][0]["next"] is None
    shown = card["groups"][1]["sources"]
    assert [s["url"][-3:] for s in shown] == ["p07", "p00", "p01", "p02", "p03"]
    address = card["groups"][1]["next"]
    add_live(api.db, api.store, seed=2)  # a promotion between two pages mixes nothing: the address names the version
    while address:
        with counted(api.db) as statements:
            page = body_of(api.client.get(address))
        assert len(statements) == 2
        assert page["totals"] == card["totals"]
        assert page["version"]["number"] == 1
        assert [g["class"] for g in page["groups"]] == ["unclassified"]
        shown += page["groups"][0]["sources"]
        address = page["groups"][0]["next"]
    assert [s["url"][-3:] for s in shown] == ["p07", *(f"p{n:02d}" for n in range(12) if n != 7)]
    assert body_of(api.card(query="?group=clinical"))["groups"] == []
    assert len(body_of(api.card(query="?limit=200"))["groups"][1]["sources"]) == 12
    problem(api.card(query="?group=magic"), 422)
    problem(api.card(query="?cursor=WzEsImEiXQ"), 422)
    problem(api.card(query="?group=academic&cursor=x"), 422)


def test_other_versions_and_aliases(elena):
    factories.add_dataset(elena.db, [pair("Why am I tired?"), pair("New?", url=WHO["URL"])], csl=[CITATION, WHO])
    add_live(elena.db, elena.store, seed=2, alias="candidate")
    assert [body_of(elena.card(query=q))["state"] for q in ("", "?alias=live", "?alias=candidate", "?version=2", "?version=1")] == [
        "live",
        "live",
        "candidate",
        "version",
        "version",
    ]
    candidate = body_of(elena.card(query="?alias=candidate"))
    assert (candidate["version"]["number"], candidate["version"]["live_since"], candidate["notices"]) == (2, None, [])
    assert "Material from World Health Organization" in candidate["summary"]["lines"]
    (notice,) = body_of(elena.card(query="?version=2"))["notices"]
    assert (notice["kind"], notice["affected_version"]) == ("version", "elena@2")
    assert body_of(elena.card(query="?version=1"))["notices"] == []
    assert body_of(elena.card(query="?version=1"))["version"]["live_since"] is not None
    problem(elena.card(query="?version=3"), 404)
    problem(elena.card(query="?alias=unknown"), 404)
    problem(elena.card(query="?alias=latest"), 422)


def test_a_pending_version_is_not_there(elena):
    with elena.db.transaction() as session:
        advisor = advisors.get(session, "elena", lock=True)
        versions.begin(session, advisor, factories.proposal(session, advisor, factories.put_files(elena.store, "p"), seed=9), actor="x")
    problem(elena.card(query="?version=2"), 404)


def test_no_live_version(api):
    factories.add_advisor(api.db, public=True)
    with counted(api.db) as statements:
        card = body_of(api.card())
    assert len(statements) == 1
    assert (card["state"], card["version"], card["groups"], card["totals"], card["base_model"]) == ("none", None, [], None, None)
    assert card["notices"] == [
        {"kind": "none", "text": "Elena has no live version, so there is nothing to list.", "at": None, "affected_version": None}
    ]


def test_a_withdrawn_source_withholds_what_is_served(elena):
    etag = elena.card().headers["etag"]
    withdraw_source(elena.db, DOI)
    response = elena.card()
    card = body_of(response)
    assert response.headers["etag"] != etag
    assert (card["state"], card["alias"], card["version"], card["groups"], card["totals"]) == ("withheld", "live", None, [], None)
    assert card["summary"]["sentence"] == "elena@1 is withheld: 1 source behind it was withdrawn."
    (notice,) = card["notices"]
    assert (notice["kind"], notice["affected_version"], notice["at"]) == ("recall", "elena@1", dt.datetime.now(dt.UTC).date().isoformat())
    assert "its authors" not in response.text  # the reason is for the history
    record = body_of(elena.card(query="?version=1"))
    assert record["totals"]["withdrawn"] == 1
    assert record["totals"]["peer_reviewed"] == 0
    assert [w["kind"] for w in record["groups"][0]["sources"][0]["warnings"]] == ["withdrawn"]
    assert [n["kind"] for n in record["notices"]] == ["recall"]


def test_a_withdrawn_version_is_noticed(elena):
    add_live(elena.db, elena.store, seed=2)
    with elena.db.transaction() as session:
        versions.withdraw(session, versions.resolve(session, "elena@1"), actor="x", reason="leaked a name")
    card = body_of(elena.card())
    assert (card["state"], card["version"]["number"]) == ("live", 2)
    (notice,) = card["notices"]
    assert (notice["kind"], notice["affected_version"], "leaked" in notice["text"]) == ("recall", "elena@1", False)
    old = body_of(elena.card(query="?version=1"))
    assert old["version"]["state"] == "withdrawn"
    assert {n["kind"] for n in old["notices"]} == {"recall", "version"}


def test_private_and_retired(elena):
    factories.add_advisor(elena.db, "marcus")
    anonymous = problem(elena.card("marcus"), 404)
    unknown = problem(elena.card("marcia"), 404)
    assert anonymous["detail"].replace("marcus", "X") == unknown["detail"].replace("marcia", "X")
    assert (anonymous["hint"], anonymous["code"]) == (unknown["hint"], unknown["code"])
    response = elena.card("marcus", headers=elena.token("read", advisor="marcus"))
    assert (body_of(response)["state"], response.headers["cache-control"]) == ("none", "private, no-cache")
    problem(elena.card("marcus", headers=elena.token("read", advisor="elena")), 404)
    problem(elena.card("marcus", headers=elena.token("write")), 404)
    problem(elena.card("elena", headers={"authorization": "Bearer art_wrong"}), 401)
    with elena.db.transaction() as session:
        for name in ("elena", "marcus"):
            advisors.retire(session, advisors.get(session, name), actor="x", reason="done")
    problem(elena.card(), 410, "gone")
    problem(elena.card("marcus"), 404)
    problem(elena.card("marcus", headers=elena.root), 410)


def test_the_figure_of_the_newest_evaluation(elena):
    def score(suite: str, **values: float) -> None:
        rows = [{"metric": name, "value": value, "low": value - 1, "high": value + 1, "n": 9} for name, value in values.items()]
        assert elena.post("/advisors/elena/versions/1/scores", {"suite": suite, "scores": rows}).status_code == 201

    forged = {"suite": "heldout", "scores": [{"metric": "loss_difference", "value": -9, "n": 5}]}
    problem(elena.post("/advisors/elena/versions/1/scores", forged), 422)
    score("zz", other=1.0)
    assert body_of(elena.card())["evaluated"] == {"suite": "zz", "metric": "other", "value": 1.0, "interval": [0.0, 2.0], "n": 9}
    measured(elena.db, "elena@1", adapter_loss=1.5, base_loss=2.0, loss_difference=-0.5)
    score("later", other=3.0)
    found = body_of(elena.card())["evaluated"]
    assert (found["suite"], found["metric"], found["value"]) == ("heldout", "loss_difference", -0.5)


def test_what_is_said_of_other_bases(elena):
    for kind, note, words in (("builtin", "A toy.", "A toy."), ("local", None, "its training data is not recorded")):
        with elena.db.transaction() as session:
            session.execute(update(BaseModel).values(kind=kind, note=note))
        found = body_of(elena.card())["base_model"]["note"]
        assert words in found
        assert "has not published" not in found


@pytest.mark.parametrize(
    "change",
    [
        lambda api: add_live(api.db, api.store, seed=2),
        lambda api: mark(api, "doi:10.1037/a0036904", check_status="retracted"),
        lambda api: mark(api, "doi:10.1037/a0036904", class_="clinical"),
        lambda api: api.send("PATCH", "/advisors/elena", {"role": "Guide"}),
        lambda api: api.post("/advisors/elena/aliases/live/clear", {"reason": "r"}),
    ],
)
def test_the_etag_changes_with_all_that_is_shown(elena, change):
    first = elena.card()
    tag = first.headers["etag"]
    assert tag.startswith('W/"')
    for header in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = elena.card(headers={"if-none-match": header})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    change(elena)
    changed = elena.card(headers={"if-none-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_the_etag_tells_an_alias_that_moved_away_and_back(elena):
    tag = elena.card().headers["etag"]
    add_live(elena.db, elena.store, seed=2)
    promote(elena.db, elena.store, "elena@1")
    assert elena.card().headers["etag"] != tag


def test_head_and_other_origins(db, store):
    api = Api(db, store, cors_origins=("https://good.example",))
    public_elena(db, store)
    head = api.client.head("/advisors/elena/sources")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 1000
    good = api.card(headers={"origin": "https://good.example"})
    assert (good.headers["access-control-allow-origin"], good.headers["vary"]) == ("https://good.example", "Origin")
    for origin in ({}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert "access-control-allow-origin" not in api.card(headers=origin).headers
    assert "access-control-allow-origin" not in api.client.get("/health", headers={"origin": "https://good.example"}).headers
    assert "access-control-allow-origin" not in api.get("/advisors", api.root | {"origin": "https://good.example"}).headers
    asked = {"origin": "https://good.example", "access-control-request-method": "GET"}
    preflight = api.client.options("/advisors/elena/sources", headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-methods"]) == (204, "GET, HEAD")
    assert "access-control-allow-credentials" not in preflight.headers
    assert (
        "access-control-allow-methods" not in api.client.options("/advisors/elena/sources", headers=asked | {"origin": "https://x"}).headers
    )
    problem(api.client.options("/advisors", headers=asked), 405)


def test_the_card_does_not_grow_in_statements(api):
    factories.add_advisor(api.db, public=True)
    for size in (1, 40):
        factories.add_dataset(api.db, [pair(f"Q{size}.{n}?", url=f"https://example.org/{size}/{n}") for n in range(size)])
        add_live(api.db, api.store, seed=size)
        with counted(api.db) as statements:
            assert body_of(api.card())["totals"]["sources"] == size
        assert len(statements) == 2
