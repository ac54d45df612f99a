"""One GET of a fixed service (papers, forum): JSON or text out, or CallFailed with a reason and a sentence. One attempt each; calls.py repeats.

Rules: an address comes from settings and code, never from a page or a model; no proxy from the environment; a redirect is followed on the same
scheme, host and port only; a body may have 10 MB, also after unpacking; a secret travels in a header, or in a parameter that is added at the moment
of sending, and never in a request's identity, a message or a log line. A refused key of such a service is a gap of that service, not the end of the
run, so 401 and 403 are `invalid_request` here.
"""

import asyncio
import functools
import json
import logging
import re
import ssl
import zlib
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from pipeline.config import Keys
from pipeline.ports import CallFailed, FetchRequest

MAX_BODY = 10_000_000  # bytes; ten papers with abstracts are under 100 kB, a hundred forum posts under 1 MB
MAX_REDIRECTS = 3
MAX_WORDS = 300  # characters of a service's own words in a message
TEXT_SERVICES = frozenset({"arxiv"})  # Atom XML; every other service answers in JSON
NAMES = {"semantic_scholar": "Semantic Scholar", "openalex": "OpenAlex", "arxiv": "arXiv", "reddit": "Reddit"}
USER_AGENT = "adapter-registry/0.1 (research client)"  # Reddit refuses the names of HTTP libraries
# OpenAlex answers 403 above its limit per second and 429 above the one per day (developers.openalex.org), so its 403 is worth another try.
_BUSY = {("openalex", 403)}
_HTML = re.compile(r"\s*(?:<!doctype\s+html|<html|<head|<body)", re.IGNORECASE)
_MARKUP = re.compile(r"<[^<>]{0,400}>")


def credentials(keys: Keys) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """(headers, parameters) by service that carry the keys at hand; Reddit's token is fetched by forum.py."""
    headers = {"semantic_scholar": {"x-api-key": keys.semantic_scholar}} if keys.semantic_scholar else {}
    # OpenAlex documents the key as the parameter api_key only (developers.openalex.org/guides/authentication).
    params = {"openalex": {"api_key": keys.openalex}} if keys.openalex else {}
    return headers, params


class Getter:
    """An HTTP client for the fixed services. `headers` and `secret_params` are added by service when a request is sent; `timeout_s` bounds a whole attempt."""

    def __init__(
        self,
        timeout_s: float = 30.0,
        headers: Mapping[str, Mapping[str, str]] | None = None,
        secret_params: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Open no connection yet."""
        self.timeout_s = timeout_s
        self._headers = {service: dict(more) for service, more in (headers or {}).items()}
        self._params = {service: dict(more) for service, more in (secret_params or {}).items()}
        logging.getLogger("httpx2").addFilter(_hide_query)
        self._client = httpx2.AsyncClient(
            timeout=timeout_s,
            verify=_tls(),
            trust_env=False,  # a proxy or a .netrc of the environment would see the keys
            follow_redirects=False,
            headers={"user-agent": USER_AGENT, "accept-encoding": "gzip"},
        )

    async def get(self, request: FetchRequest, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """One attempt: {"status", "body"}, where body is the parsed JSON object, or {"text": ...} for a service that speaks XML. Raises CallFailed."""
        more = {**self._headers.get(request.service, {}), **(headers or {})}
        params: list[tuple[str, str | int | float | bool | None]] = [*request.params, *self._params.get(request.service, {}).items()]
        try:
            built = self._client.build_request("GET", request.url, params=params, headers=more)
        except (httpx2.InvalidURL, ValueError, TypeError):
            raise CallFailed("invalid_request", f"The address or the key set for {_name(request.service)} is not valid.") from None
        return await self._attempt(request.service, built, [*more.values(), *self._params.get(request.service, {}).values()])

    async def post_form(self, service: str, url: str, form: Mapping[str, str], auth: tuple[str, str]) -> dict[str, Any]:
        """One POST of a form with HTTP basic authentication: how an OAuth token is fetched. Answers and raises like `get`; never remembered anywhere."""
        try:
            built = self._client.build_request("POST", url, data=dict(form))
        except (httpx2.InvalidURL, ValueError, TypeError):
            raise CallFailed("invalid_request", f"The address or the key set for {_name(service)} is not valid.") from None
        return await self._attempt(service, built, list(auth), httpx2.BasicAuth(*auth))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _attempt(self, service: str, request: httpx2.Request, secrets: list[str], auth: httpx2.Auth | None = None) -> dict[str, Any]:
        name = _name(service)
        try:
            # The client's own timeout bounds the wait for each byte; this one the whole, so that a dripping server ends too.
            async with asyncio.timeout(self.timeout_s):
                response, body = await self._exchange(name, request, auth)
        except (TimeoutError, httpx2.TimeoutException):
            raise CallFailed("timeout", f"{name} did not answer within {self.timeout_s:g} seconds.") from None
        except httpx2.UnsupportedProtocol:
            raise CallFailed("invalid_request", f"The address set for {name} is not an http(s) URL.") from None
        except httpx2.HTTPError as error:
            raise CallFailed("connection", f"The connection to {name} failed ({type(error).__name__}).") from None
        text = body.decode("utf-8", "replace")
        if response.status_code != 200:
            raise _refusal(service, response, _hidden(_words(text), secrets), sent_key=any(secrets))
        if service in TEXT_SERVICES:
            return {"status": 200, "body": _text(name, response, text)}
        return {"status": 200, "body": _json(name, body, text)}

    async def _exchange(self, name: str, request: httpx2.Request, auth: httpx2.Auth | None) -> tuple[httpx2.Response, bytes]:
        """Send, follow redirects on the same origin, read the body under its cap."""
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._client.send(request, stream=True, auth=auth)
            try:
                following = response.next_request
                if following is None:
                    return response, await _read(name, response)
                if _origin(following.url) != _origin(request.url):
                    raise CallFailed(
                        "invalid_request",
                        f"{name} answered with a redirect to another host, which is not followed.",
                        status=response.status_code,
                    )
                request = following
            finally:
                await response.aclose()
        raise CallFailed("invalid_request", f"{name} redirected more than {MAX_REDIRECTS} times.")


@functools.cache
def _tls() -> ssl.SSLContext:
    """The trusted certificates; reading them takes longer than a short answer, so all clients of a process share one context."""
    return httpx2.create_ssl_context(trust_env=False)


def _name(service: str) -> str:
    return NAMES.get(service, service)


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


async def _read(name: str, response: httpx2.Response) -> bytes:
    """The body, unpacked here and not by the client, because the client would unpack a bomb before anybody could count. Raises CallFailed."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise CallFailed("malformed", f"{name} answered in the encoding {encoding[:20]!a}, which was not asked for.")
    unpack = zlib.decompressobj(wbits=31) if encoding == "gzip" else None  # 31: a gzip header is expected
    body = bytearray()
    async for chunk in response.aiter_raw():
        room = MAX_BODY + 1 - len(body)
        try:
            body += unpack.decompress(chunk, room) if unpack else chunk[:room]
        except zlib.error:
            raise CallFailed("not_json", f"{name} answered with a damaged body.", status=response.status_code) from None
        if len(body) > MAX_BODY:
            raise CallFailed("too_large", f"{name} answered with more than {MAX_BODY // 1_000_000} MB.", status=response.status_code)
    if unpack is not None and not unpack.eof:
        raise CallFailed("not_json", f"{name} answered with a body that ends too early.", status=response.status_code)
    return bytes(body)


def _json(name: str, body: bytes, text: str) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # ValueError covers bad UTF-8 and numbers of absurd length
        found = "an HTML page" if _HTML.match(text) else "something that is not JSON"
        raise CallFailed("not_json", f"{name} answered with {found} and status 200.", status=200) from None
    if not isinstance(value, dict):
        raise CallFailed("not_json", f"{name} answered with a JSON {type(value).__name__}; an object was expected.", status=200)
    return value


def _no_constant(word: str) -> None:
    raise ValueError(word)


def _text(name: str, response: httpx2.Response, text: str) -> dict[str, Any]:
    if "text/html" in response.headers.get("content-type", "").lower() or _HTML.match(text):
        raise CallFailed("not_json", f"{name} answered with an HTML page and status 200; XML was expected.", status=200)
    return {"text": text}


def _refusal(service: str, response: httpx2.Response, words: str, *, sent_key: bool) -> CallFailed:
    """The typed failure of an answer that is not 200."""
    name, status, said = _name(service), response.status_code, f" It says: {words}" if words else ""
    if status == 429 or (service, status) in _BUSY:
        return CallFailed(
            "rate_limited",
            f"{name} refused the request because of its rate limit.{said}",
            status=status,
            retry_after=_retry_after(response),
        )
    if status in (408, 504):
        return CallFailed("timeout", f"{name} gave up waiting (status {status}).{said}", status=status)
    if status >= 500:
        return CallFailed("server_error", f"{name} failed with status {status}.{said}", status=status, retry_after=_retry_after(response))
    if status in (401, 403):
        what = "did not accept the key it was sent; check the key or leave it out" if sent_key else "does not answer without a key"
        return CallFailed("invalid_request", f"{name} {what} (status {status}).{said}", status=status)
    if status in (404, 410):
        return CallFailed("not_found", f"{name} does not know what was asked for.{said}", status=status)
    return CallFailed("invalid_request", f"{name} refused the request with status {status}.{said}", status=status)


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds. A date is measured against the response's own clock, because ours may be wrong; without that clock it says nothing."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", value):
        return float(value)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(response.headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _words(text: str) -> str:
    """What a service says about an error: its JSON's error or message, or its page without the markup; short, on one line, printable."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        found = value.get("error") if isinstance(value.get("error"), str) else value.get("message")
        text = found if isinstance(found, str) else ""
    plain = " ".join(_MARKUP.sub(" ", text[:10_000]).split())
    return "".join(letter for letter in plain if letter.isprintable())[:MAX_WORDS]


def _hidden(words: str, secrets: list[str]) -> str:
    """The words without any secret that a service may have echoed."""
    for secret in secrets:
        words = words.replace(secret, "[hidden]") if secret else words
    return words


def _hide_query(record: logging.LogRecord) -> bool:
    """Takes the query out of the addresses that httpx2 logs, because one service wants its key there."""
    if isinstance(record.args, tuple):
        record.args = tuple(arg.copy_with(query=None) if isinstance(arg, httpx2.URL) else arg for arg in record.args)
    return True
