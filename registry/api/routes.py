"""What every router shares: documented errors, and a route's name as its operation id, which stays when its address is mended."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from registry.api.errors import MEDIA_TYPE
from registry.api.schemas import Problem

_WORDS = {
    401: "No token, or one that is unknown, expired or revoked.",
    403: "The token does not carry the permission.",
    404: "It does not exist, or not for this caller.",
    409: "It contradicts the present state.",
    410: "The advisor was retired.",
    412: "It moved meanwhile.",
    413: "The body is too large.",
    422: "The input breaks a rule that the problem names.",
    503: "The database or the artifact store does not answer; nothing was changed.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI document. 422 and 503 may come from any route."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _WORDS[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in sorted({*statuses, 422, 503})
    }


# What a download answers, for the OpenAPI document; registry/api/downloads.py gives these answers.
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"application/octet-stream": {"example": "(the bytes of the file)"}}},
    206: {"description": "The range that was asked for."},
    304: {"description": "The client has these bytes."},
    307: {"description": "The file lies on S3; the address is good for five minutes."},
    **problems(401, 403, 404),
}


def router(tag: str) -> APIRouter:
    """A router for one noun."""
    return APIRouter(tags=[tag], generate_unique_id_function=operation_id)


def operation_id(route: APIRoute) -> str:
    """The function's name: unique over the whole API, which a test checks."""
    return route.name


__all__ = ["DOWNLOAD", "Problem", "operation_id", "problems", "router"]
