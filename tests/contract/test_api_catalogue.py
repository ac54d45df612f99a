"""Advisors, personas, datasets, bases, sources, history over HTTP: the happy paths, repeats, pages, and the number of statements."""

import json

import factories
import pytest
from api_kit import BASE, CITATION, DOI, TINY, Api, add_live, counted, pair, problem

PROMPT = "You are Elena, warm and direct."


def pages(api: Api, path: str, limit: int) -> list[dict]:
    """Every item, page by page."""
    found, address = [], f"{path}{'&' if '?' in path else '?'}limit={limit}"
    while address:
        body = api.get(address)
        assert body.status_code == 200, body.text
        assert len(body.json()["items"]) <= limit
        found += body.json()["items"]
        address = body.json()["next"]
    return found


def test_an_advisor_is_added_shown_changed_named_and_retired(api):
    new = {"slug": "elena", "prompt": PROMPT, "name": "Elena", "role": "Guide", "names": ["dr-elena"]}
    made = api.post("/advisors", new)
    assert made.status_code == 201
    again = api.post("/advisors", new)
    assert (again.status_code, again.json()) == (200, made.json())
    problem(api.post("/advisors", new | {"prompt": "Another voice."}), 409, "already_exists")
    problem(api.post("/advisors", {"slug": "dr-elena", "prompt": PROMPT}), 409, "already_exists")
    shown = api.get("/advisors/dr-elena").json()
    assert (shown["slug"], shown["names"], shown["public"], shown["aliases"]) == ("elena", ["dr-elena"], False, {})
    assert api.send("PATCH", "/advisors/elena", {"public": True, "role": "Burnout guide"}).json()["public"] is True
    for _ in range(2):
        named = api.post("/advisors/elena/names", {"name": "lora_elena"})
        assert (named.status_code, named.json()["names"]) == (200, ["dr-elena", "lora_elena"])
    for _ in range(2):
        assert api.post("/advisors/elena/retire", {"reason": "replaced"}).json()["retired_at"] is not None
    problem(api.send("PATCH", "/advisors/elena", {"public": False}), 410, "gone")
    assert api.get("/advisors/elena").json()["retired_at"] is not None


def test_an_unknown_advisor_gets_the_nearest_name(api):
    factories.add_advisor(api.db, "elena")
    assert problem(api.get("/advisors/elenna"), 404, "not_found")["hint"] == "Did you mean 'elena'?"
    factories.add_advisor(api.db, "marcus")
    bound = api.token("read", advisor="marcus")
    assert "elena'" not in problem(api.get("/advisors/elenna", bound), 404)["hint"]
    problem(api.card("elenna"), 404)


def test_personas(api):
    factories.add_advisor(api.db, "elena")
    assert api.post("/advisors/elena/personas", {"text": "Second voice.\r\n"}).status_code == 201
    again = api.post("/advisors/elena/personas", {"text": "Second voice."})
    assert (again.status_code, again.json()["number"], again.json()["text"]) == (200, 2, "Second voice.")
    assert [p["number"] for p in pages(api, "/advisors/elena/personas", 1)] == [1, 2]


def test_datasets_are_imported_once_and_read_back(api):
    factories.add_advisor(api.db, "elena")
    body = {
        "examples": [pair("Why am I tired?", category="sleep"), pair("How do I rest?", url="")],
        "citations": [CITATION],
        "heldout": 0,
    }
    made = api.post("/advisors/elena/datasets", body)
    assert made.status_code == 201, made.text
    again = api.post("/advisors/elena/datasets", body)
    assert (again.status_code, again.json()["created"]) == (200, False)
    as_text = {"jsonl": "\n".join(json.dumps(row) for row in body["examples"]), "citations": [CITATION], "heldout": 0}
    assert api.post("/advisors/elena/datasets", as_text).status_code == 200
    sha256 = made.json()["dataset"]["sha256"]
    shown = api.get(f"/advisors/elena/datasets/{sha256}").json()
    assert (shown["examples_total"], shown["without_source"], shown["sources_by_class"]) == (2, 1, {"academic": 1})
    assert api.get(f"/advisors/elena/datasets/{sha256[7:17]}").json()["sha256"] == sha256
    assert [d["sha256"] for d in pages(api, "/advisors/elena/datasets", 1)] == [sha256]
    examples = pages(api, f"/advisors/elena/datasets/{sha256}/examples", 1)
    assert [e["position"] for e in examples] == [0, 1]
    assert examples[0]["sources"] == [{"id": "src_1", "url": DOI, "role": "answer", "extent": "abstract"}]
    assert examples[1]["sources"] == []
    problem(api.get("/advisors/elena/datasets/" + "0" * 64), 404)


def test_faulty_lines_are_all_named_and_nothing_is_written(api):
    factories.add_advisor(api.db, "elena")
    rows = [pair("Why?"), pair("What?", response=" "), pair("Who?", url="ftp://example.org/x"), {"instruction": "x", "response": "y"}]
    found = problem(api.post("/advisors/elena/datasets", {"examples": rows}), 422, "invalid")
    assert [f"examples line {n}" in found["detail"] for n in (1, 2, 3, 4)] == [False, True, True, True]
    broken = problem(api.post("/advisors/elena/datasets", {"jsonl": '{"instruction": "x"\n'}), 422)
    assert "jsonl line 1" in broken["detail"]
    for body in ({}, {"jsonl": "", "examples": []}, {"examples": []}, {"jsonl": "[1" + "0" * 5000 + "]"}, {"jsonl": '{"messages": []}'}):
        problem(api.post("/advisors/elena/datasets", body), 422)
    assert api.get("/advisors/elena/datasets").json()["items"] == []
    assert api.get("/sources/src_1").status_code == 404


def test_bases(api):
    body = BASE | {"kind": "hub", "config": TINY}
    assert api.post("/bases", body).status_code == 201
    again = api.post("/bases", body)
    assert (again.status_code, again.json()["repo"]) == (200, BASE["repo"])
    assert api.post("/bases", {"repo": "local/one", "kind": "local"}).json()["revision"] is None
    assert [b["repo"] for b in pages(api, "/bases", 1)] == [BASE["repo"], "local/one"]
    problem(api.post("/bases", body | {"revision": "main"}), 422)
    problem(api.post("/bases", body | {"kind": "magic"}), 422)


def test_a_source_and_the_history(elena):
    source = elena.get("/sources/src_1").json()
    assert (source["class"], source["doi"], source["documents"]) == (
        "academic",
        "10.1037/a0036904",
        [{"extent": "abstract", "retrieved_at": None, "sha256": None}],
    )
    for unknown in ("src_999999", "12", "doi:10.1037"):
        problem(elena.get(f"/sources/{unknown}"), 404)
    for malformed in ("src_x", "src_" + "9" * 30, "src_" + "9" * 80):
        problem(elena.get(f"/sources/{malformed}"), 422)
    events = []
    address = "/events?limit=2"
    while address:
        body = elena.get(address).json()
        events += body["items"]
        address = body["next"]
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert elena.get(f"/events?after={events[-2]['seq']}").json()["items"] == [events[-1]]
    audit = elena.get("/audit").json()
    assert (audit["holds"], audit["seq"], audit["hash"]) == (True, events[-1]["seq"], events[-1]["hash"])


def test_health_and_readiness(api):
    assert api.client.get("/health").json() == {"status": "ok"}
    assert api.client.get("/ready").json()["status"] == "ready"


def test_a_wrong_revision_is_not_ready_and_does_not_start(api):
    from api_kit import settings
    from sqlalchemy import text

    from registry.api.app import create_app
    from registry.db import VERSION_TABLE
    from registry.errors import WrongRevision

    with api.db.transaction() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0000'"))
    found = problem(api.client.get("/ready"), 503, "wrong_revision")
    assert "registry db upgrade" in found["hint"]
    with pytest.raises(WrongRevision) as raised:
        create_app(settings(), api.db, api.store)
    assert "registry db upgrade" in (raised.value.hint or "")


LISTS = (
    ("/advisors", 4),
    ("/advisors/elena", 4),
    ("/advisors/elena/personas", 3),
    ("/advisors/elena/datasets", 4),
    ("/advisors/elena/versions", 7),
    ("/advisors/elena/aliases", 3),
    ("/advisors/elena/aliases/live/history", 3),
    ("/events", 2),
    ("/bases", 2),
    ("/tokens", 2),
)


def test_the_number_of_statements_does_not_grow_with_the_rows(elena):
    def run(path: str) -> list[str]:
        with counted(elena.db) as statements:
            assert elena.get(path).status_code == 200
        return statements

    before = {path: run(path) for path, _ in LISTS}
    for number in range(3):
        factories.add_advisor(elena.db, f"other-{number}", aliases=(f"another-{number}",))
        factories.add_dataset(elena.db, [pair(f"Question {number}?")], csl=[CITATION])
        add_live(elena.db, elena.store, seed=10 + number, alias=("live", "candidate", "next")[number])
        elena.post("/advisors/elena/personas", {"text": f"Voice {number}."})
        elena.token("read")
    for path, most in LISTS:
        assert len(run(path)) == len(before[path]) <= most, before[path]
