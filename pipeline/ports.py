"""The seams of the pipeline: what a model call is, who may answer it, where its answer is kept. Interfaces and values only; no I/O.

One rule for every caller: `send` makes one HTTP attempt and raises CallFailed when it got no usable answer. Waiting, retrying, counting and
remembering happen in calls.py, once, for every provider.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

# Reasons why a call got no answer. FATAL ones stop the whole run, because no other call could succeed either.
RETRYABLE = frozenset({"rate_limited", "overloaded", "server_error", "connection", "timeout", "not_json"})
FATAL = frozenset({"no_key", "bad_key", "no_permission", "no_quota", "no_such_model", "disk", "budget", "terms"})
OTHER = frozenset({"invalid_request", "refused", "too_large", "truncated", "malformed", "paused_too_often", "not_found"})


class CallFailed(Exception):
    """A call without a usable answer: `reason` is one of the words above, `message` a sentence; `retry_after` seconds, where the server said so."""

    def __init__(self, reason: str, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.status, self.retry_after = reason, message, status, retry_after

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.reason in RETRYABLE

    @property
    def fatal(self) -> bool:
        """Whether every other call would fail too."""
        return self.reason in FATAL


@dataclass(frozen=True)
class ModelRequest:
    """One request to a language model, in the Messages API's shape. `attempt` makes a deliberate second asking another call.

    `purpose` names the step for people (extract, queries, web_1, synthesis, judge) and is no part of the request's identity.
    """

    purpose: str
    model: str
    messages: tuple[dict[str, Any], ...]
    max_tokens: int
    system: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    schema: dict[str, Any] | None = None
    effort: str | None = None
    attempt: int = 0

    @property
    def key(self) -> str:
        """sha256 over the canonical request: the same question has the same key in every run."""
        facts = {name: value for name, value in asdict(self).items() if name != "purpose"}
        return (
            "sha256:"
            + hashlib.sha256(
                json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
            ).hexdigest()
        )


@dataclass(frozen=True)
class Usage:
    """Tokens and searches of one answer, as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    web_searches: int = 0
    web_fetches: int = 0


@dataclass(frozen=True)
class ModelReply:
    """One answer. `content` are the provider's content blocks (Messages API shape), `text` its text blocks joined."""

    text: str
    content: tuple[dict[str, Any], ...]
    stop_reason: str
    usage: Usage
    model: str
    request_id: str | None = None
    stop_details: dict[str, Any] | None = None


@dataclass(frozen=True)
class Limits:
    """What response headers said about the rate limits; None where they said nothing. Resets are seconds from now, by the server's own clock."""

    requests_limit: int | None = None
    requests_remaining: int | None = None
    requests_reset_s: float | None = None
    input_tokens_limit: int | None = None
    input_tokens_remaining: int | None = None
    input_tokens_reset_s: float | None = None
    output_tokens_limit: int | None = None
    output_tokens_remaining: int | None = None
    output_tokens_reset_s: float | None = None


class ModelCaller(Protocol):
    """One provider's transport."""

    @property
    def generator(self) -> str:
        """How the provider's writing is named on cards, such as "claude-sonnet-5-5 (Anthropic)"."""

    async def send(self, request: ModelRequest) -> tuple[ModelReply, Limits]:
        """Make one HTTP attempt. Raises CallFailed."""

    async def close(self) -> None:
        """Close its connections."""


@dataclass(frozen=True)
class FetchRequest:
    """One GET of a fixed service (papers, forum). `url` comes from settings and code, never from a model or a page; headers with keys stay outside."""

    purpose: str
    service: str
    url: str
    params: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """sha256 over service and parameters; the address is a setting and stays outside."""
        path = self.url.partition("://")[2].partition("/")[2]
        return "sha256:" + hashlib.sha256(json.dumps([self.service, path, self.params]).encode()).hexdigest()


@dataclass(frozen=True)
class Recorded:
    """What the ledger keeps of a call whose answer was committed. `answer` is JSON; `received_at` ISO 8601 in UTC; cost in US dollars or unknown."""

    key: str
    purpose: str
    answer: dict[str, Any]
    received_at: str
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    attempts: int = 1
    seconds: float = 0.0


class RunStore(Protocol):
    """Where one run writes down what it paid for and what it made. Every method is safe to repeat; a commit survives kill -9."""

    async def recorded(self, key: str) -> Recorded | None:
        """The committed answer to a request, or None."""

    async def record(self, call: Recorded) -> None:
        """Commit an answer; the first one for a key stays."""

    async def calls(self) -> list[Recorded]:
        """Every committed answer in the order of commit, with `answer` left empty."""

    async def put(self, kind: str, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Write values by kind and id; the same id again replaces the value."""

    async def items(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every value of a kind, by id, in the order of ids."""

    async def close(self) -> None:
        """Release what it holds."""


@dataclass(frozen=True)
class Progress:
    """Something that happened, for whoever watches: `agent` is a step or an agent, `done` of `total`, and a few words."""

    agent: str
    state: str  # waiting | running | done | failed
    message: str = ""
    done: int = 0
    total: int = 0
    kept: int = 0
    dropped: int = 0
    failed: int = 0
    cost: float | None = None


Watcher = Callable[[Progress], None]
