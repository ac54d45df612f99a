"""Input that is wrong, hostile or absurd: a clear 4xx, never a 5xx, and nothing written."""

import json
import urllib.parse
import warnings
from collections.abc import Iterator

import factories
import pytest
from anyio.from_thread import start_blocking_portal
from api_kit import CITATION, DOI, HOST, Api, add_live, digest, pair, problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.db import Database

BAD_NAMES = (
    "Elena",
    "elena x",
    "%2e%2e",
    "elena%2F..%2Fmarcus",
    "elena%5C..",
    "elena%00",
    "elena%0a",
    "%E2%80%AEanele",  # right-to-left override
    "elena%ED%A0%80",  # a surrogate, which is no UTF-8
    "%FF%FE",
    "elena%23",
    "elena;x",
    "elena:1",
    "-elena",
    "é",
    "e" * 64,
    "e" * 5000,
    "%F0%9F%98%80",
)
ADDRESSES = (
    "/advisors/{}",
    "/advisors/{}/sources",
    "/advisors/{}/versions",
    "/advisors/{}/versions/1",
    "/advisors/{}/aliases/live",
    "/advisors/elena/aliases/{}",
    "/advisors/elena/aliases/{}/history",
    "/advisors/elena/resolve?alias={}",
    "/advisors/elena/sources?alias={}",
    "/advisors/elena/sources?group={}",
    "/advisors/elena/sources?cursor={}&group=academic",
    "/advisors/elena/datasets/{}",
    "/advisors/elena/versions/1/files/{}",
    "/advisors?cursor={}",
    "/advisors/elena/versions?cursor={}",
    "/advisors/elena/resolve?at={}",
    "/artifacts/{}",
    "/sources/{}",
)
BAD_NUMBERS = ("0", "-1", "1.5", "one", "1e3", "9" * 30, "9" * 5000, "٣", "0x1", "%00", "")
NUMBERS = (
    "/advisors/elena/versions/{}",
    "/advisors/elena/versions/1/diff/{}",
    "/advisors/elena/sources?version={}",
    "/advisors/elena/sources?limit={}",
    "/advisors?limit={}",
    "/events?limit={}",
)


@pytest.fixture
def full(elena: Api) -> Iterator[Api]:
    """Two advisors, and one event loop for all requests of a test (the test client starts one for each request otherwise)."""
    factories.add_advisor(elena.db, "marcus")
    with start_blocking_portal() as portal:
        elena.client.portal = portal
        yield elena


def test_names_that_are_none(full):
    for address in ADDRESSES:
        for name in BAD_NAMES:
            response = full.get(address.format(name))
            assert 400 <= response.status_code < 500, (address, name, response.text)
            if name.startswith(("Elena", "elena%00", "%E2")) and "?" not in address and "{slug}" in address:
                problem(response, 422, "invalid")


def test_a_name_is_refused_with_the_rule_and_the_character(full):
    found = problem(full.card("Elena"), 422, "invalid")
    assert "a-z, 0-9" in found["detail"]
    assert "LATIN CAPITAL LETTER E" in found["detail"]
    assert "RIGHT-TO-LEFT OVERRIDE" in problem(full.card("elena%E2%80%AE"), 422)["detail"]
    assert "U+0000" in problem(full.card("elena%00"), 422)["detail"]


def test_numbers_that_are_none(full):
    for address in NUMBERS:
        for number in BAD_NUMBERS:
            response = full.get(address.format(number))
            assert 400 <= response.status_code < 500, (address, number[:40], response.text)
    problem(full.card(query="?limit=201"), 422)
    problem(full.card(query="?version=1&alias=live"), 422)
    problem(full.card(query="?cursor=WzEsImEiXQ"), 422)


BODIES = (
    ("POST", "/advisors", {"slug": "x", "prompt": "p"}, ("slug", "prompt", "name", "role")),
    ("PATCH", "/advisors/elena", {"name": "n"}, ("name", "role")),
    ("POST", "/advisors/elena/names", {"name": "x"}, ("name",)),
    ("POST", "/advisors/elena/personas", {"text": "t"}, ("text",)),
    ("POST", "/advisors/elena/datasets", {"jsonl": "{}"}, ("jsonl", "generator", "persona", "origin")),
    ("POST", "/advisors/elena/versions/1/scores", {"suite": "s", "scores": [{"metric": "m", "value": 1, "n": 1}]}, ("suite", "note")),
    ("PUT", "/advisors/marcus/aliases/live", {"version": 1, "reason": "r"}, ("reason", "version")),
    ("POST", "/advisors/elena/aliases/live/rollback", {"reason": "r"}, ("reason",)),
    ("POST", "/advisors/elena/aliases/live/undo", {"reason": "r"}, ("reason",)),
    ("POST", "/advisors/elena/aliases/live/clear", {"reason": "r", "expected_version": 9}, ("reason",)),
    ("POST", "/bases", {"repo": "r/x"}, ("repo", "revision", "kind", "note", "weights_sha256")),
    ("POST", "/tokens", {"name": "n", "scopes": ["read"]}, ("name", "advisor")),
)
BAD_TEXTS = ("\x00", "a\x00b", "\x07", "\u202eabc", "\ud800", "x" * 300_000)


def test_control_bidi_nul_and_surrogates_in_bodies(full):
    before = full.get("/audit").json()["seq"]
    for method, path, body, fields in BODIES:
        for field in fields:
            for text in BAD_TEXTS:
                response = full.send(method, path, body | {field: text})
                assert 400 <= response.status_code < 500, (path, field, text[:20], response.text[:300])
            for value in (2**70, -(2**70), [], {}, 1.5, True):
                response = full.send(method, path, body | {field: value})
                assert response.status_code < 500, (path, field, value)
    assert full.get("/audit").json()["seq"] == before, "something was written"


def test_bodies_that_are_no_json(full):
    for content, kind in (
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"null", "application/json"),
        (b"[]", "application/json"),
        (b'"text"', "application/json"),
        (b"[" * 20_000, "application/json"),
        (b'{"slug": 1' + b"0" * 5000 + b"}", "application/json"),
        (b'{"slug": NaN, "prompt": Infinity}', "application/json"),
        (b"slug=x", "application/x-www-form-urlencoded"),
        (b"{}", "text/plain"),
        (b"{}", "application/json; charset=utf-16"),
        (b'{"slug": "a", "slug": "b"}', "application/json"),
    ):
        for path in ("/advisors", "/tokens", "/advisors/elena/datasets"):
            response = full.client.post(path, content=content, headers=full.root | {"content-type": kind})
            assert response.status_code in (400, 422), (path, content[:40], response.status_code)
            problem(response, response.status_code)


def test_deep_and_unrepresentable_json_in_free_fields(full):
    deep: object = {}
    for _ in range(40):
        deep = {"a": deep}
    for config in (deep, {"a": 2**54}, {"\x00": 1}, {"a": "\ud800"}, {"a": "\x01"}):
        problem(full.post("/bases", {"repo": "r/x", "config": config}), 422)
    raw = b'{"repo": "r/x", "config": {"a": 1e999}}'
    problem(full.client.post("/bases", content=raw, headers=full.root | {"content-type": "application/json"}), 422)


def test_a_body_may_not_be_large(full):
    for path, size in (("/advisors", 1024 * 1024 + 1), ("/advisors/elena/datasets", 64 * 1024 * 1024 + 1)):
        assert "at most" in problem(full.client.post(path, content=b"0" * size, headers=full.root), 413, "too_large")["detail"]

    def stream():
        for _ in range(20):
            yield b" " * 100_000

    problem(full.client.post("/advisors", content=stream(), headers=full.root | {"content-type": "application/json"}), 413)


def test_unknown_addresses_and_methods(full):
    for path in ("/", "/nothing", "/advisors/", "/advisors/elena/", "/advisors/elena/sources/", "/docs/../x", "/docs/nothing", "/%00"):
        problem(full.get(path), 404, "not_found")
    for method, path in (("DELETE", "/advisors/elena"), ("POST", "/health"), ("PUT", "/advisors"), ("TRACE", "/advisors/elena/sources")):
        found = full.send(method, path)
        problem(found, 405, "method_not_allowed")
        assert "allow" in found.headers


def test_only_known_hosts_are_answered(full):
    for host in ("evil.example", "", "testserver.evil.example", "testserver@evil", "127.0.0.1", "test\x80server"):
        for path in ("/health", "/advisors/elena/sources"):
            response = full.client.get(path, headers={"host": host.encode("latin-1")})
            problem(response, 400, "unknown_host")
    for host in ("testserver", "testserver:8000", "TESTSERVER:1"):
        assert full.client.get("/health", headers={"host": host}).status_code == 200


def test_every_answer_carries_the_security_headers(full):
    for path in ("/health", "/advisors/elena/sources", "/nothing", "/advisors"):
        headers = full.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_surprise_tells_nothing_of_the_inside(full, monkeypatch):
    from starlette.testclient import TestClient

    from registry import advisors

    def fail(*_args, **_more):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(advisors, "page", fail)
    client = TestClient(full.app, base_url=f"http://{HOST}", raise_server_exceptions=False)
    response = client.get("/advisors", headers=full.root)
    problem(response, 500, "internal")
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


def test_every_error_class_has_a_status():
    from registry import errors
    from registry.api.errors import STATUS, for_error

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RegistryError)]
    assert set(kinds) == set(STATUS)
    sent = for_error(errors.NotPromotable("no", ["a", "b"], hint="wait"))
    assert (sent.status_code, json.loads(bytes(sent.body))["reasons"]) == (409, ["a", "b"])


# ---- Fuzz: whatever is asked, no answer begins with 5 ---------------------------------------------------------------------------------------

RAW = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from([urllib.parse.unquote(n, errors="replace") for n in BAD_NAMES])
PATHS = st.sampled_from([a.split("?")[0] for a in (*ADDRESSES, *NUMBERS)])
QUERY_NAMES = st.sampled_from(("version", "alias", "group", "cursor", "limit", "at", "after", "x"))


@pytest.fixture(scope="module")
def fuzzed(sqlite_template, tmp_path_factory):
    import shutil

    from registry.artifacts import open_store

    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copy(sqlite_template, folder / "catalogue.db")
    db = Database(f"sqlite:///{folder / 'catalogue.db'}")
    api = Api(db, open_store(folder / "artifacts"))
    factories.add_advisor(db, "elena", public=True)
    factories.add_dataset(db, [pair("Why?")], csl=[CITATION])
    add_live(db, api.store)
    with start_blocking_portal() as portal:
        api.client.portal = portal
        yield api
    db.dispose()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=PATHS, value=RAW, query=st.dictionaries(QUERY_NAMES, RAW | st.integers().map(str), max_size=3))
def test_no_address_gives_a_server_error(fuzzed, path, value, query):
    address = path.replace("{}", urllib.parse.quote(value, safe="")) + "?" + urllib.parse.urlencode(query)
    response = fuzzed.get(address)
    assert response.status_code < 500, address


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    target=st.sampled_from(BODIES),
    changes=st.dictionaries(
        st.sampled_from(
            ("slug", "name", "reason", "version", "scores", "examples", "citations", "config", "limit", "scopes", "text", "heldout")
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_no_body_gives_a_server_error(fuzzed, target, changes):
    method, path, body, _ = target
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        response = fuzzed.send(method, path, body | changes)
    assert response.status_code < 500, (path, changes)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(("if-match", "if-none-match", "range", "origin", "authorization", "accept-encoding")), value=st.binary(max_size=60)
)
def test_no_header_gives_a_server_error(fuzzed, name, value):
    clean = bytes(b for b in value if b >= 32 and b != 127)
    for path in ("/advisors/elena/sources", f"/artifacts/{digest(b'')}", "/advisors/elena/versions/1/files/adapter_config.json"):
        assert fuzzed.get(path, fuzzed.root | {name: clean}).status_code < 500, (path, name, clean)


def test_nobody_unknown_makes_the_server_read_a_large_body(elena):
    large = b'{"examples": [' + b"{}," * 400_000 + b"{}]}"
    for headers in ({}, {"authorization": "Bearer art_wrong"}):
        problem(elena.client.post("/advisors/elena/datasets", content=large, headers=headers), 401)
    assert elena.client.post("/advisors/elena/datasets", content=large, headers=elena.root).status_code == 422


def test_a_host_name_longer_than_any_is_refused_and_not_remembered(elena):
    answer = elena.client.get("/health", headers={"host": "a" * 5000})
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_host")


def test_a_bound_token_sees_only_its_own_readings_of_a_source(elena):
    factories.add_advisor(elena.db, "marcus")
    mine = elena.token("write", "read", advisor="marcus")
    body = {"examples": [{"instruction": "Q", "response": "A", "origin": "human", "sources": [DOI]}], "heldout": 0}
    assert elena.client.post("/advisors/marcus/datasets", json=body, headers=mine).status_code == 201
    (source,) = [s for g in elena.client.get("/advisors/elena/sources").json()["groups"] for s in g["sources"]][:1]
    seen = elena.client.get(f"/sources/{source['id']}", headers=mine).json()
    whole = elena.client.get(f"/sources/{source['id']}", headers=elena.root).json()
    assert len(seen["documents"]) < len(whole["documents"])


def test_a_builtin_base_cannot_be_registered_from_outside(elena):
    problem(elena.post("/bases", {"repo": "x/y", "revision": "b" * 40, "kind": "builtin", "note": "Trained by licensed clinicians."}), 422)
