"""Who may call what: every route declares it, and every route is tried with the wrong token."""

import re

import factories
import pytest
from api_kit import CITATION, Api, add_live, digest, pair, problem
from fastapi.routing import APIRoute
from starlette.routing import Route

from registry.api import docs
from registry.api.app import require_permissions
from registry.db import Database

EXPECTED = {
    "GET /advisors": "read",
    "POST /advisors": "write",
    "GET /advisors/{slug}": "read",
    "PATCH /advisors/{slug}": "write",
    "POST /advisors/{slug}/names": "write",
    "POST /advisors/{slug}/retire": "admin",
    "GET /advisors/{slug}/personas": "read",
    "POST /advisors/{slug}/personas": "write",
    "GET /advisors/{slug}/datasets": "read",
    "POST /advisors/{slug}/datasets": "write",
    "GET /advisors/{slug}/datasets/{digest}": "read",
    "GET /advisors/{slug}/datasets/{digest}/examples": "read",
    "GET /advisors/{slug}/versions": "read",
    "POST /advisors/{slug}/versions": "write",
    "POST /advisors/{slug}/versions/{number}/finish": "write",
    "GET /advisors/{slug}/versions/{number}": "read",
    "GET /advisors/{slug}/versions/{number}/diff/{other}": "read",
    "GET /advisors/{slug}/versions/{number}/verify": "read",
    "GET /advisors/{slug}/versions/{number}/files/{name}": "read",
    "HEAD /advisors/{slug}/versions/{number}/files/{name}": "read",
    "GET /advisors/{slug}/versions/{number}/scores": "read",
    "POST /advisors/{slug}/versions/{number}/scores": "write",
    "POST /advisors/{slug}/versions/{number}/withdraw": "promote",
    "GET /advisors/{slug}/aliases": "read",
    "GET /advisors/{slug}/aliases/{alias}": "read",
    "PUT /advisors/{slug}/aliases/{alias}": "promote",
    "POST /advisors/{slug}/aliases/{alias}/rollback": "promote",
    "POST /advisors/{slug}/aliases/{alias}/undo": "promote",
    "POST /advisors/{slug}/aliases/{alias}/clear": "promote",
    "GET /advisors/{slug}/aliases/{alias}/history": "read",
    "GET /advisors/{slug}/resolve": "read",
    "GET /advisors/{slug}/sources": "public",
    "HEAD /advisors/{slug}/sources": "public",
    "GET /sources/{id}": "read",
    "PUT /artifacts/{digest}": "write",
    "GET /artifacts/{digest}": "read",
    "HEAD /artifacts/{digest}": "read",
    "GET /bases": "read",
    "POST /bases": "write",
    "GET /pipelines/terms": "read",
    "POST /advisors/{slug}/pipelines": "write",
    "POST /advisors/{slug}/builds": "write",
    "GET /advisors/{slug}/jobs": "read",
    "GET /advisors/{slug}/jobs/{job}": "read",
    "GET /advisors/{slug}/jobs/{job}/events": "read",
    "POST /advisors/{slug}/jobs/{job}/cancel": "write",
    "POST /advisors/{slug}/jobs/{job}/retry": "write",
    "GET /workers": "admin",
    "GET /tokens": "admin",
    "POST /tokens": "admin",
    "DELETE /tokens/{number}": "admin",
    "GET /events": "read",
    "GET /audit": "admin",
    "GET /health": "public",
    "GET /ready": "public",
    "GET /openapi.json": "public",
    "GET /docs": "public",
    "GET /docs/{asset}": "public",
}


def routes_of(api: Api) -> dict[str, APIRoute]:
    found = {}
    for route in api.app.routes:
        assert isinstance(route, APIRoute), route
        found |= {f"{method} {route.path}": route for method in route.methods}
    return found


def test_every_route_declares_the_permission_it_should(api):
    declared = {name: docs.declared(route) for name, route in routes_of(api).items()}
    assert {name: asked.scope if asked else None for name, asked in declared.items()} == EXPECTED


def test_an_app_with_an_undeclared_route_does_not_start(api):
    with pytest.raises(RuntimeError, match="/open"):
        require_permissions([*api.app.routes, Route("/open", lambda _: None)])


def filled(path: str) -> str:
    """A route's path with plausible values."""
    values = {
        "slug": "elena",
        "digest": digest(b""),
        "number": "1",
        "other": "1",
        "name": "adapter_config.json",
        "alias": "live",
        "id": "src_1",
        "job": "build-elena-000000000000",
    }
    return re.sub(r"\{(\w+)\}", lambda match: values[match.group(1)], path)


@pytest.fixture
def one(make_sqlite, store):
    """The walks below do not depend on the database, and are long."""
    db = Database(make_sqlite())
    api = Api(db, store)
    factories.add_advisor(db, "elena")
    factories.add_advisor(db, "marcus")
    factories.add_dataset(db, [pair("Why?")], csl=[CITATION])
    add_live(db, store)
    yield api
    db.dispose()


def test_no_token_a_bad_token_and_a_token_without_the_scope(one):
    scopes = ("read", "write", "promote", "admin")
    without = {scope: one.token(*(other for other in scopes if other != scope)) for scope in scopes}
    for name, scope in EXPECTED.items():
        if scope == "public":
            continue
        method, path = name.split(" ")
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer art_wrong"}, 401),
            ({"authorization": "Basic YTpi"}, 401),
            ({"authorization": "Bearer "}, 401),
            (without[scope], 403),
        ):
            response = one.send(method, filled(path), {} if method in ("POST", "PUT", "PATCH") else None, headers)
            assert response.status_code == status, name
            assert ("www-authenticate" in response.headers) == (status == 401), name


def test_a_token_bound_to_another_advisor(one):
    bound = one.token("read", "write", "promote", advisor="marcus")
    for name, scope in EXPECTED.items():
        if scope in {"public", "admin"}:
            continue
        method, path = name.split(" ")
        response = one.send(method, filled(path), {} if method in ("POST", "PUT", "PATCH") else None, bound)
        if "{slug}" in path:
            assert response.status_code == 404, name
            if method != "HEAD":
                assert problem(response, 404)["hint"] == "Advisors are private unless their owners publish them."
        elif name in ("GET /advisors", "GET /events", "GET /bases", "GET /pipelines/terms"):
            assert response.status_code == 200, name
            assert "elena" not in response.text
        elif name == "PUT /artifacts/{digest}":
            problem(response, 422, "digest_mismatch")  # it may upload; these are the wrong bytes
        elif name in ("POST /advisors", "POST /bases"):
            problem(response, 403, "forbidden")
        else:
            assert response.status_code == 404, name


def test_a_revoked_and_an_expired_token_end(elena):
    import datetime as dt

    from sqlalchemy import update

    from registry.models import Token

    made = elena.post("/tokens", {"name": "short", "scopes": ["read"], "days": 1})
    assert made.status_code == 201
    headers = {"authorization": f"Bearer {made.json()['secret']}"}
    assert elena.get("/advisors", headers).status_code == 200
    number = made.json()["token"]["id"]
    with elena.db.transaction() as session:
        session.execute(update(Token).where(Token.id == number).values(expires_at=dt.datetime.now(dt.UTC)))
    problem(elena.get("/advisors", headers), 401, "unauthorized")
    kept = elena.token("read")
    listed = elena.get("/tokens").json()["items"]
    assert elena.send("DELETE", f"/tokens/{listed[-1]['id']}").json()["revoked_at"] is not None
    problem(elena.get("/advisors", kept), 401)
    assert made.json()["secret"] not in elena.get("/tokens").text


def test_a_bound_token_sees_its_own_advisor_whole_and_no_other(elena):
    factories.add_advisor(elena.db, "marcus")
    factories.add_dataset(elena.db, [pair("Why?", url="https://example.org/other")], "marcus")
    add_live(elena.db, elena.store, "marcus", seed=7)
    bound = elena.token("read", advisor="elena")
    assert [a["slug"] for a in elena.get("/advisors", bound).json()["items"]] == ["elena"]
    assert elena.get("/advisors/dr-elena/versions", bound).status_code == 200
    assert {e["advisor"] for e in elena.get("/events", bound).json()["items"]} == {"elena"}
    assert elena.get("/sources/src_1", bound).status_code == 200
    problem(elena.get("/sources/src_2", bound), 404)
    other = elena.get("/advisors/marcus/versions/1").json()["files"][0]["sha256"]
    own = elena.get("/advisors/elena/versions/1").json()["files"][0]["sha256"]
    assert elena.get(f"/artifacts/{own}", bound).status_code == 200
    problem(elena.get(f"/artifacts/{other}", bound), 404)
    assert elena.get(f"/artifacts/{other}").status_code == 200


def test_the_history_names_who_acted(api):
    headers = api.token("read", "write")
    assert api.post("/advisors", {"slug": "priya", "prompt": "Be kind."}, headers).status_code == 201
    actors = {e["actor"] for e in api.get("/events").json()["items"] if e["advisor"] == "priya"}
    assert actors == {"read+write of None (token 2)"}
