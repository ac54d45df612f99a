"""The OpenAPI document, and a page that lets one read and try it without asking anybody else: Swagger UI's own files, from the package fastapi-swagger.

Nothing is loaded from another host, which the page's content security policy enforces. The package is used for its two files alone; a test holds them
against the digests of npm's swagger-ui-dist, so that a changed build is noticed.
"""

import gzip
import json
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from registry.api.deps import PUBLIC, Actor, Permission, permission
from registry.api.routes import router
from registry.api.schemas import Problem
from registry.errors import NotFound

routes = router("docs")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
# 'unsafe-inline' is for styles alone: Swagger UI sets some on its elements.
ABOUT = """Versions of LoRA adapters for AI advisors: which one is live, what it was trained on, how it scored, and the way back.

Everything but the public Source Cards needs a bearer token (`registry tokens create`). Tokens carry the scopes they name: read, write, promote, admin.
Lists come in parts; follow `next`. Errors are problem documents (RFC 9457) with a stable `code`, a sentence and a hint."""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Adapter Registry API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="stylesheet" href="/docs/page.css">
<script src="/docs/swagger-ui-bundle.js" defer></script>
<script src="/docs/page.js" defer></script>
</head>
<body><main id="ui"><noscript>This page needs JavaScript. The document itself: <a href="/openapi.json">/openapi.json</a></noscript></main></body>
</html>
"""
SCRIPT = """"use strict";
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  tryItOutEnabled: true,
  filter: true,
  docExpansion: "list",
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""
STYLE = """body { margin: 0; }
html.dark-mode body { background: #1c2022; }
.swagger-ui .wrapper { max-width: 1100px; padding: 0 16px; }
.swagger-ui .info { margin: 24px 0; }
@media (max-width: 640px) {
  .swagger-ui .opblock .opblock-summary { flex-wrap: wrap; }
  .swagger-ui .opblock .opblock-summary-path { max-width: 100%; }
  .swagger-ui .opblock .opblock-summary-description { flex-basis: 100%; padding: 4px 0 4px 10px; text-align: left; }
  .swagger-ui table.parameters, .swagger-ui table.parameters tbody, .swagger-ui table.parameters tr, .swagger-ui table.parameters td { display: block; width: auto; }
  .swagger-ui table.parameters thead { display: none; }
  .swagger-ui input, .swagger-ui textarea { max-width: 100%; min-width: 0 !important; }
  .swagger-ui .scheme-container { padding: 12px 0; }
}
"""
_OWN = {"page.css": (STYLE, "text/css"), "page.js": (SCRIPT, "text/javascript")}
_THEIRS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@routes.get(
    "/openapi.json",
    summary="The OpenAPI document",
    response_class=Response,
    responses={200: {"description": "This document.", "content": {"application/json": {"example": {"openapi": "3.1.0"}}}}},
)
def openapi_document(request: Request, _actor: Annotated[Actor, permission(PUBLIC)]) -> Response:
    """The document that this page is made from."""
    return _squeezed(request, json.dumps(request.app.openapi(), ensure_ascii=False).encode(), "application/json", "no-cache")


@routes.get("/docs", include_in_schema=False)
def docs_page(request: Request, _actor: Annotated[Actor, permission(PUBLIC)]) -> Response:
    """The document for people."""
    response = _squeezed(request, PAGE.encode(), "text/html; charset=utf-8", "no-cache")
    response.headers["content-security-policy"] = POLICY
    return response


@routes.get("/docs/{asset}", include_in_schema=False)
def docs_asset(request: Request, asset: Annotated[str, Path(max_length=100)], _actor: Annotated[Actor, permission(PUBLIC)]) -> Response:
    """A script or a style sheet of the page."""
    if asset in _OWN:
        text, media_type = _OWN[asset]
        return _squeezed(request, text.encode(), media_type, "public, max-age=3600")
    if asset not in _THEIRS:
        raise NotFound(f"There is nothing at /docs/{asset[:60]!a}.")
    return _squeezed(request, vendored(asset), _THEIRS[asset], "public, max-age=3600")


@lru_cache(maxsize=4)
def vendored(asset: str) -> bytes:
    """A file of Swagger UI, as the package brings it."""
    return (resources.files("fastapi_swagger") / "resources" / asset).read_bytes()


def _squeezed(request: Request, body: bytes, media_type: str, cache_control: str) -> Response:
    headers = {"cache-control": cache_control, "vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(_gzip(body), media_type=media_type, headers={**headers, "content-encoding": "gzip"})
    return Response(body, media_type=media_type, headers=headers)


@lru_cache(maxsize=8)
def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


# ---- The document ---------------------------------------------------------------------------------------------------------------------------


def declared(route: APIRoute) -> Permission | None:
    """The permission that a route declares, or None."""
    return next((d.call for d in route.dependant.dependencies if isinstance(d.call, Permission)), None)


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with each operation's permission and the shape of problems."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "description": "registry tokens create"}}
        for route in (route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema):
            _protect(document, route)
        app.openapi_schema = document
    return app.openapi_schema


def _protect(document: dict[str, Any], route: APIRoute) -> None:
    asked = declared(route)
    for method in route.methods or ():
        operation = document["paths"][route.path][method.lower()]
        scope = asked.scope if asked is not None else PUBLIC
        operation["x-permission"] = scope
        operation["security"] = [{}] if scope == PUBLIC else [{"bearer": []}]
