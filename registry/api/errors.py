"""The one place where an error becomes a status code and a problem document (RFC 9457).

The sentence and the hint were chosen where the fact was known (registry/errors.py); this module adds the number. What was not raised on purpose is a 500
whose body says nothing of its inside; the server's log has the rest. Text goes out as ASCII JSON, so that a lone surrogate in a request can be quoted
back without breaking the reply.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, IntegrityError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from registry import errors

MEDIA_TYPE = "application/problem+json"
STATUS: Mapping[type[errors.RegistryError], int] = {
    errors.RegistryError: 400,
    errors.NotFound: 404,
    errors.Invalid: 422,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.Stale: 412,
    errors.Gone: 410,
    errors.NotPromotable: 409,
    errors.DigestMismatch: 422,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.Unavailable: 503,
    errors.TooLarge: 413,
    errors.WrongRevision: 503,
    errors.TrainingFailed: 500,
    errors.Paused: 503,
}
_HEADERS: Mapping[int, Mapping[str, str]] = {401: {"www-authenticate": 'Bearer realm="registry"'}, 503: {"retry-after": "1"}}
_LONGEST = 300  # of a validator's sentence: it may quote what the client sent


def status_of(error: errors.RegistryError) -> int:
    """The status code of an error, by the nearest class that has one."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    status: int, code: str, detail: str, *, hint: str | None = None, reasons: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """A problem document. `code` is stable and for machines; `detail`, `hint` and `reasons` are for people."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
        "reasons": list(reasons),
    }
    return Response(
        json.dumps(body, ensure_ascii=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={**_HEADERS.get(status, {}), "cache-control": "no-store", **(headers or {})},
    )


def for_error(error: errors.RegistryError) -> Response:
    """The problem document of an error that was raised on purpose."""
    reasons = error.reasons if isinstance(error, errors.NotPromotable) else ()
    return problem(status_of(error), error.code, error.message, hint=error.hint, reasons=reasons)


def install(app: FastAPI, surprise_headers: Mapping[str, str]) -> None:
    """Let `app` answer every error with a problem document. The answer to a surprise passes no other layer, so its headers are given here."""
    app.add_exception_handler(errors.RegistryError, _on_registry_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    for kind in (DataError, IntegrityError, OverflowError, UnicodeError, RecursionError):
        app.add_exception_handler(kind, _on_refused_value)

    async def on_surprise(_request: Request, _error: Exception) -> Response:
        words = "Something went wrong on our side."
        return problem(500, "internal", words, hint="Nothing was changed. The server's log says more.", headers=surprise_headers)

    app.add_exception_handler(Exception, on_surprise)


async def _on_registry_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.RegistryError)  # noqa: S101 - Starlette's type says Exception
    return for_error(error)


async def _on_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    reasons = [_reason(item) for item in error.errors()[:20]]
    return problem(422, "invalid", "The request does not have the form that this address expects.", reasons=reasons)


def _reason(item: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in item.get("loc", ()))
    return f"{place}: {item.get('msg', 'not valid')}"[:_LONGEST]


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    code, detail = _WORDS.get(error.status_code, ("error", str(error.detail)))
    if error.status_code == 404:
        detail = f"There is nothing at {request.url.path[:200]!a}."
    return problem(error.status_code, code, detail, headers=error.headers)


_WORDS: Mapping[int, tuple[str, str]] = {
    400: ("malformed", "The request body could not be read: expected UTF-8 JSON with the content type application/json."),
    404: ("not_found", "There is nothing here."),
    405: ("method_not_allowed", "This address does not take that method."),
    413: ("too_large", "The request body is larger than this address takes."),
}


async def _on_refused_value(_request: Request, error: Exception) -> Response:
    """The database refused a value, or Python could not write it: out of range, or text that is no text. A safety net behind the checks."""
    if isinstance(error, IntegrityError):
        return problem(
            409,
            "conflict",
            "The request contradicts something that was recorded meanwhile.",
            hint="Nothing was changed. Look, then try again.",
        )
    return problem(
        422, "invalid", "The request holds a value that cannot be recorded: a number out of range, or text with characters that are none."
    )
