"""The OpenAPI document and its page: every operation is described with examples, and nothing is loaded from elsewhere."""

import hashlib
import json
import re
import shutil

import pytest
from api_kit import problem, settings

from registry.api import docs
from registry.api.app import create_app
from registry.artifacts import open_store
from registry.db import Database

# npm's swagger-ui-dist 5.34.0, of which fastapi-swagger 0.4.64 brings a copy.
SWAGGER_UI = {
    "swagger-ui-bundle.js": "3f6abf70480db7e07914df4c98a77385f22ea585eaf457a3e6415ba0eae2d167",
    "swagger-ui.css": "c3cfe8248c4b0b89673600fb829924eafbac6de4bc4b2b06f5f5243483074d0a",
}


@pytest.fixture(scope="module")
def document(sqlite_template, tmp_path_factory):
    """The document; it depends on the routes alone, not on a catalogue's content."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(sqlite_template, folder / "catalogue.db")
    db = Database(f"sqlite:///{folder / 'catalogue.db'}")
    described = create_app(settings(), db, open_store(folder / "artifacts")).openapi()
    db.dispose()
    return described


def test_the_document_is_served(api, document):
    response = api.client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(document))


def operations(document):
    return [(path, method, operation) for path, methods in document["paths"].items() for method, operation in methods.items()]


def test_operation_ids_are_unique_and_speak(document):
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z_]+", name) for name in ids)
    assert {"source_card", "promote", "rollback", "begin_version", "finish_version", "upload_artifact"} <= set(ids)


def test_every_operation_has_words_examples_and_a_permission(document):
    for path, method, operation in operations(document):
        place = f"{method} {path}"
        assert operation["summary"], place
        assert operation["description"], place
        assert operation["tags"], place
        assert operation["x-permission"] in ("public", "read", "write", "promote", "admin"), place
        assert operation["security"] == ([{}] if operation["x-permission"] == "public" else [{"bearer": []}]), place
        good = next(response for status, response in operation["responses"].items() if status.startswith("2"))
        (content,) = good["content"].values()
        assert exemplified(document, content), place
        if "requestBody" in operation:
            (content,) = operation["requestBody"]["content"].values()
            assert exemplified(document, content), place
        if "parameters" in operation:
            assert all(p.get("description") for p in operation["parameters"]), place


def exemplified(document, content) -> bool:
    """Whether a body has an example, whole or of its fields."""
    schema = content.get("schema", {})
    if "example" in content or "examples" in schema:
        return True
    if "items" in schema:
        return exemplified(document, {"schema": schema["items"]})
    if "$ref" not in schema:
        return False
    target = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    fields = target.get("properties", {}).values()
    return all("examples" in f or "$ref" in f or "items" in f or "default" in f or "anyOf" in f for f in fields)


def test_every_refusal_is_documented_as_a_problem(document):
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            if status.startswith(("4", "5")):
                assert list(response["content"]) == ["application/problem+json"], (path, method, status)
    assert "Problem" in document["components"]["schemas"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_references_resolve(document):
    known = document["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', str(document).replace("'", '"')):
        assert name in known, name


def test_the_page_and_its_parts(api):
    page = api.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == docs.POLICY
    assert "unsafe-inline" not in docs.POLICY.partition("script-src")[2].partition(";")[0]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert links
    for link in links:
        assert link.startswith(("/docs/", "/openapi.json", "data:,"))
        if link.startswith("/"):
            answer = api.client.get(link)
            assert answer.status_code == 200, link
            assert answer.headers["x-content-type-options"] == "nosniff"
    assert api.client.get("/docs/swagger-ui-bundle.js").headers["content-encoding"] == "gzip"
    problem(api.client.get("/docs/..%2f..%2fetc"), 404)
    problem(api.client.get("/docs/favicon.png"), 404)


def test_swagger_ui_is_the_published_one():
    assert {name: hashlib.sha256(docs.vendored(name)).hexdigest() for name in SWAGGER_UI} == SWAGGER_UI
