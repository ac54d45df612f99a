"""What surrounds every answer of the API: host names, security headers, the size of bodies, and who may read a card from another page.

Rules:
- The server answers to the host names in its settings alone; the port is not compared (a name that an attacker points here, DNS rebinding, is refused).
- Bodies are bounded before they are parsed. Files have their own limit, checked while they stream (registry/artifacts).
- Other origins may read public cards with GET and nothing else; credentials are never allowed across origins.
- Messages of unknown types pass, because downloads are sent by http.response.zerocopysend.

registry/card_cache.py asks the same objects for cached answers, so that a cached card and a fresh one cannot differ in this.
"""

from collections.abc import Callable, Iterable, Sequence

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.api.errors import problem

MIB = 1024 * 1024
BODY_LIMIT = MIB  # JSON that describes something; the longest prompt takes 0.8 MB as UTF-8
DATASET_LIMIT = 64 * MIB  # about 20,000 conversations; larger files are imported on the command line
RawHeaders = tuple[tuple[bytes, bytes], ...]
SECURITY: RawHeaders = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
SMALL_BODY = 64 * 1024  # what anybody may make the server read before it knows who asks
_LONGEST_HOST = 262  # 255 bytes of name (RFC 1035), a colon and a port
_REMEMBERED = 1024  # host headers whose verdict is kept; an attacker's variety must not grow memory


def is_card(path: str) -> bool:
    """Whether a path is that of a Source Card: /advisors/{slug}/sources."""
    return path.startswith("/advisors/") and path.endswith("/sources") and path.count("/") == 3


class Hosts:
    """The host names the server answers to: exact ones, *.example.org, or * for any."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """`allowed` as in the settings."""
        names = {name.lower() for name in allowed}
        self._any = "*" in names
        self._exact = frozenset(names)
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._verdicts: dict[bytes | None, bool] = {}

    def allow(self, host: bytes | None) -> bool:
        """Whether a Host header names this server. A header longer than any host name (RFC 1035: 255 bytes) is refused and not remembered."""
        if host is not None and len(host) > _LONGEST_HOST:
            return False
        verdict = self._verdicts.get(host)
        if verdict is None:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            verdict = self._verdicts[host] = self._decide(host)
        return verdict

    def _decide(self, host: bytes | None) -> bool:
        if host is None:
            return False
        name = host.decode("latin-1").lower()
        if not name.endswith("]"):
            head, colon, port = name.rpartition(":")
            name = head if colon and port.isdigit() else name
        return self._any or name in self._exact or name.endswith(self._suffixes or ("\0",))


class Origins:
    """Which other origins may read public cards, and the headers that tell a browser so."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """`allowed` as in the settings."""
        self._any = "*" in allowed
        self._allowed = {origin.encode("latin-1", "replace") for origin in allowed}

    def headers(self, origin: bytes | None) -> RawHeaders:
        """The headers of a card for a request from `origin`."""
        if self._any:
            return ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", b"ETag"))
        if not self._allowed:
            return ()
        if origin not in self._allowed or origin is None:
            return ((b"vary", b"Origin"),)
        return ((b"access-control-allow-origin", origin), (b"access-control-expose-headers", b"ETag"), (b"vary", b"Origin"))

    def key(self, origin: bytes | None) -> bytes | None:
        """What the headers depend on: equal keys give equal headers."""
        return origin if not self._any and origin in self._allowed else None

    def preflight(self, origin: bytes | None) -> Response:
        """The answer to a browser that asks before it asks."""
        allowed = self._any or origin in self._allowed
        more = ((b"access-control-allow-methods", b"GET, HEAD"), (b"access-control-allow-headers", b"If-None-Match"))
        response = Response(status_code=204)
        response.raw_headers = [*self.headers(origin), *(more if allowed else ()), (b"access-control-max-age", b"86400")]
        return response


def refuse_host() -> Response:
    """The answer to a request for another host."""
    return problem(400, "unknown_host", "This server does not answer to that host name.", hint="Its operator sets REGISTRY_ALLOWED_HOSTS.")


class Edge:
    """The outermost layer of the API's app."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, origins: Origins, known: Callable[[str | None], bool]) -> None:
        """Wrap `app`. `known` says of an Authorization header whether a live token stands in it; it may ask the database."""
        self._app = app
        self._known = known
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, bound and dress one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
        dressed = _Dressed(send, self._origins.headers(origin) if is_card(scope["path"]) and scope["method"] in ("GET", "HEAD") else ())
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        limit = _body_limit(scope)
        if not self._hosts.allow(host):
            await refuse_host()(scope, receive, dressed)
        elif scope["method"] == "OPTIONS" and is_card(scope["path"]) and "access-control-request-method" in headers:
            await self._origins.preflight(origin)(scope, receive, dressed)
        elif limit is None:
            await self._app(scope, receive, dressed)
        elif _stated_length(headers) > limit:
            await problem(413, "too_large", f"A request body may have at most {limit} bytes here.")(scope, receive, dressed)
        elif _large_body(scope, headers) and not await to_thread.run_sync(self._known, headers.get("authorization")):
            # The routes check permissions after the body was read and parsed; nobody unknown may make the server do that for megabytes.
            refusal = problem(401, "unauthorized", "This needs a bearer token.", hint="Make one with: registry tokens create")
            await refusal(scope, receive, dressed)
        else:
            await self._app(scope, _Bounded(receive, limit), dressed)


def _body_limit(scope: Scope) -> int | None:
    """Bytes a request's body may have; None where the route bounds it itself."""
    if scope["method"] == "PUT" and scope["path"].startswith("/artifacts/"):
        return None
    return DATASET_LIMIT if scope["method"] == "POST" and scope["path"].endswith("/datasets") else BODY_LIMIT


def _large_body(scope: Scope, headers: Headers) -> bool:
    """Whether a request may carry more than a small body: it says so, or it does not say."""
    if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
        return False
    return "content-length" not in headers or _stated_length(headers) > SMALL_BODY


def _stated_length(headers: Headers) -> int:
    stated = headers.get("content-length", "0")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 19 else 0


class _Bounded:
    """Counts a body's bytes while they come, for clients that do not state a length."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413)  # the one exception that FastAPI lets through while it reads a body
        return message


class _Dressed:
    """Adds the security headers to an answer where it does not bring its own, and `more` in any case."""

    def __init__(self, send: Send, more: RawHeaders) -> None:
        self._send = send
        self._more = more

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", ())}
            added = [header for header in SECURITY if header[0] not in present]
            message = {**message, "headers": [*message.get("headers", ()), *added, *self._more]}
        await self._send(message)
