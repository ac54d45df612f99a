"""A stand-in for Anthropic's Messages API (version 2026-10-21) that speaks the real wire format over loopback HTTP; also OpenAI's chat completions.

It refuses what the API refuses (sampling parameters, forced tool choice, assistant prefill, a schema beside web search, unknown models), counts rate
limits, fails as told (`Fault`), replays recordings byte for byte (`Replay`), and remembers every request. What a model would say comes from a `brain`,
a plain function of the request's body. In a test: `with MessagesApi(brain=answer) as api: ...api.url`. As an own process, for kills and benchmarks:

    python tests/fakes/messages_api.py --port 0 --scale 0.1 --log calls.jsonl --faults '[{"kind": "overloaded", "when": "search", "times": 2}]'

It does not know how good an answer is, and its token counts are characters divided by four unless the brain counts better. A system text marked with
cache_control counts as written to the cache at its first arrival and as read later; nothing expires, and tools and messages are not cached.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import hashlib
import importlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

Brain = Callable[[dict[str, Any]], dict[str, Any]]
# Seconds a request of each kind takes on the real API (measured sizes of the issue: a search 10 s, a synthesis batch 30 s).
LATENCY = {"search": 10.0, "synthesis": 30.0, "other": 2.0}
MODELS = ("claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5", "claude-fable-5-1", "claude-sonnet-4-5", "claude-sonnet-4-0")
KNOWN = {
    "model", "messages", "max_tokens", "system", "tools", "tool_choice", "output_config", "stream", "metadata", "stop_sequences", "thinking",
    "service_tier", "cache_control", "temperature", "top_p", "top_k",
}  # fmt: skip
TOOL_TYPES = (
    "web_search_20250305", "web_search_20260209", "web_search_20260318",
    "web_fetch_20250910", "web_fetch_20260209", "web_fetch_20260309", "web_fetch_20260318",
)  # fmt: skip
CACHE_LEAST = 1024  # tokens; a shorter system text is taken, but not cached (general knowledge of the API; some models need more)
CACHE_MARKS = 4  # cache_control blocks in a request
# What constrained decoding cannot enforce, and the API refuses with a 400.
UNSUPPORTED_SCHEMA = {
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
}
STATUS_FAULTS = {
    "rate_limited": (429, "rate_limit_error", "This request would exceed your organization's rate limit of requests per minute."),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "server_error": (500, "api_error", "Internal server error"),
    "timeout504": (504, "timeout_error", "The request timed out while processing."),
    "bad_key": (401, "authentication_error", "invalid x-api-key"),
    "no_quota": (402, "billing_error", "Your credit balance is too low to access the Anthropic API."),
    "no_quota_400": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
    ),
    "quota_429": (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
    "no_permission": (403, "permission_error", "Your API key does not have permission to use the specified resource."),
    "no_such_model": (404, "not_found_error", "model: claude-none"),
    "too_large": (413, "request_too_large", "Request exceeds the maximum size"),
    "invalid_request": (400, "invalid_request_error", "messages: at least one message is required"),
    "format_unsupported": (400, "invalid_request_error", "output_config.format: structured outputs are not supported by this model."),
}
# The "Task:" lines of our own prompts.
TASKS = {
    "ExtractAdvisorDomain": "extract",
    "GenerateResearchQueries": "queries",
    "SynthesizeTrainingBatch": "synthesis",
    "JudgeTrainingPairs": "judge",
}
FAULT_KINDS = (*STATUS_FAULTS, "html_200", "html_502", "drop", "broken_body", "stream_error", "stream_cut", "refusal", "max_tokens", "malformed", "short",
               "pause_turn", "search_error", "no_results", "slow", "redirect", "json_200")  # fmt: skip


@dataclass
class Fault:
    """A scripted failure of the next `times` matching requests (None: of all), after letting `skip` pass. `each` counts per distinct request.

    `when` is a part of the purpose ("search", "synthesis"), `text:...` for a part of the body, or a predicate over the body; empty matches all.
    """

    kind: str
    when: str | Callable[[dict[str, Any]], bool] = ""
    times: int | None = 1
    skip: int = 0
    each: bool = False
    retry_after: float | None = None
    seconds: float = 0.0
    error_code: str = "unavailable"
    category: str | None = "frontier_llm"
    seen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            msg = f"{self.kind!r} is no kind of fault; expected one of {', '.join(FAULT_KINDS)}"
            raise ValueError(msg)

    def hits(self, body: dict[str, Any], purpose: str, key: str) -> bool:
        """Whether this request fails; counts it."""
        if callable(self.when):
            matches = self.when(body)
        elif self.when.startswith("text:"):
            matches = self.when[5:] in json.dumps(body, ensure_ascii=False)
        else:
            matches = self.when in purpose
        if not matches:
            return False
        slot = key if self.each else ""
        self.seen[slot] = number = self.seen.get(slot, 0) + 1
        return number > self.skip and (self.times is None or number <= self.skip + self.times)


@dataclass
class Seen:
    """One request as it arrived; `status` and `latency` (seconds) are set when the answer left, status 0 is a dropped line."""

    key: str
    purpose: str
    at: float
    body: dict[str, Any]
    headers: dict[str, str]
    status: int | None = None
    latency: float | None = None
    given: float = 0.0  # seconds that the answer was to take


@dataclass
class RateLimits:
    """Requests, input and output tokens per minute, as token buckets of that size; None is no limit. Counted by the monotonic clock."""

    rpm: int | None = None
    itpm: int | None = None
    otpm: int | None = None

    def __post_init__(self) -> None:
        self._left = {name: float(limit) for name, limit in self._all() if limit}
        self._at = time.monotonic()

    def _all(self) -> list[tuple[str, int | None]]:
        return [("requests", self.rpm), ("input-tokens", self.itpm), ("output-tokens", self.otpm)]

    def refill(self) -> None:
        now = time.monotonic()
        for name, limit in self._all():
            if limit:
                self._left[name] = min(float(limit), self._left[name] + (now - self._at) * limit / 60)
        self._at = now

    def take(self, input_tokens: int) -> tuple[str, float] | None:
        """Count a request; or the name of the limit that it would pass and the seconds to wait."""
        self.refill()
        # A request larger than the whole bucket passes when the bucket is full, as on the real API's smallest tiers.
        needs = {"requests": 1.0, "input-tokens": min(float(input_tokens), float(self.itpm or 0)), "output-tokens": 1.0}
        for name, limit in self._all():
            if limit and self._left[name] < needs[name]:
                return name, (needs[name] - self._left[name]) * 60 / limit
        for name in ("requests", "input-tokens"):
            if name in self._left:
                self._left[name] -= needs[name]
        return None

    def spend(self, output_tokens: int) -> None:
        if "output-tokens" in self._left:
            self._left["output-tokens"] -= output_tokens

    def states(self) -> Iterator[tuple[str, int, int, float]]:
        """(name, limit, remaining, seconds until full) of each limit."""
        self.refill()
        for name, limit in self._all():
            if limit:
                left = self._left[name]
                yield name, limit, max(0, int(left)), max(0.0, (limit - left) * 60 / limit)


class Replay:
    """Recorded exchanges of a VCR cassette, served in order. `bodies` are the JSON bytes that go over the wire, written once."""

    def __init__(self, path: Path | str) -> None:
        import yaml

        with Path(path).open(encoding="utf-8") as file:
            self.interactions: list[dict[str, Any]] = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["interactions"]  # noqa: S506 - both are safe loaders
        self.requests = [i["request"].get("parsed_body") for i in self.interactions]
        self.answers = [i["response"]["parsed_body"] for i in self.interactions]
        # Compact UTF-8 without escapes: the lengths then equal the recorded content-length.
        self.bodies = [json.dumps(a, ensure_ascii=False, separators=(",", ":")).encode() for a in self.answers]
        self._next = 0

    def response(self) -> Response:
        if self._next >= len(self.bodies):
            return _error(500, "api_error", "the recording holds no further answer", "req_none")
        number, self._next = self._next, self._next + 1
        recorded = self.interactions[number]["response"]
        hop = {"content-length", "content-encoding", "transfer-encoding", "connection"}
        headers = {name: values[0] for name, values in recorded["headers"].items() if name.lower() not in hop}
        return Response(self.bodies[number], status_code=recorded["status"]["code"], headers=headers)


def canonical_key(body: dict[str, Any]) -> str:
    """sha256 of the canonical body."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def purpose_of(body: dict[str, Any]) -> str:
    """What a request is for, guessed from its tools, its task or its schema: search, extract, queries, judge, synthesis or other."""
    if body.get("tools"):
        return "search"
    system = json.dumps(body.get("system") or "")
    for task, purpose in TASKS.items():
        if f"Task: {task}" in system:
            return purpose
    names = json.dumps((body.get("output_config") or {}).get("format") or {})
    marks = (
        ("primary_domain", "extract"),
        ('"queries"', "queries"),
        ("verdict", "judge"),
        ('"pairs"', "synthesis"),
        ('"examples"', "synthesis"),
        ('"conversations"', "synthesis"),
        ('"turns"', "synthesis"),
    )
    return next((purpose for mark, purpose in marks if mark in names), "other")


def text_of(body: dict[str, Any]) -> str:
    """Every text of a request's messages."""
    parts = []
    for message in body["messages"]:
        content = message["content"]
        parts += [content] if isinstance(content, str) else [b.get("text", "") for b in content if isinstance(b, dict)]
    return "\n".join(parts)


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """A trivial brain: one search with one cited result, the emptiest JSON that fits a schema, or an echo."""
    question = text_of(body)[:80]
    if body.get("tools"):
        return {
            "content": searched(question, [("https://example.org/a", "A page", f"What a page says about {question}.")]),
            "stop_reason": "end_turn",
        }
    schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
    text = json.dumps(_example(schema)) if schema else f"You said: {question}"
    return {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}


def searched(query: str, pages: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Content blocks of one web search: pages are (url, title, cited text)."""
    tool = "srvtoolu_" + hashlib.sha256(query.encode()).hexdigest()[:24]
    results = [
        {"type": "web_search_result", "url": url, "title": title, "encrypted_content": _opaque(url, cited), "page_age": None}
        for url, title, cited in pages
    ]
    texts = [
        {
            "type": "text",
            "text": cited,
            "citations": [
                {
                    "type": "web_search_result_location",
                    "url": url,
                    "title": title,
                    "encrypted_index": _opaque(title, cited),
                    "cited_text": cited,
                }
            ],
        }
        for url, title, cited in pages
    ]
    return [
        {"type": "text", "text": "Let me look."},
        {"type": "server_tool_use", "id": tool, "name": "web_search", "input": {"query": query}, "caller": {"type": "direct"}},
        {"type": "web_search_tool_result", "tool_use_id": tool, "caller": {"type": "direct"}, "content": results},
        *texts,
    ]


def _opaque(*parts: str) -> str:
    return "Eo" + hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def _example(schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object":
        return {name: _example(part) for name, part in schema.get("properties", {}).items()}
    return {"array": [], "string": "text", "integer": 0, "number": 0, "boolean": True}.get(str(kind))


def _tokens(value: Any) -> int:
    return max(1, len(json.dumps(value, ensure_ascii=False)) // 4)


# What the API refuses


def check(body: dict[str, Any], models: Sequence[str]) -> tuple[int, str, str] | None:
    """(status, error type, message) of a request that the API would refuse, or None."""
    bad = "invalid_request_error"
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            return 400, bad, f"{name}: Field required"
    extra = sorted(set(body) - KNOWN)
    if extra:
        return 400, bad, f"{extra[0]}: Extra inputs are not permitted"
    if body["model"] not in models:
        return 404, "not_found_error", f"model: {body['model']}"
    sampling = [name for name in ("temperature", "top_p", "top_k") if name in body]
    if sampling:
        return 400, bad, f"{sampling[0]}: this parameter is not supported by this API version."
    if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 1:
        return 400, bad, "max_tokens: Input should be greater than or equal to 1"
    message = _check_system(body.get("system")) or _check_messages(body["messages"]) or _check_tools(body) or _check_output(body)
    return (400, bad, message) if message else None


def _check_system(system: Any) -> str | None:
    if system is None or isinstance(system, str):
        return None
    if not isinstance(system, list):
        return "system: Input should be a valid string or list"
    for number, block in enumerate(system):
        if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            return f"system.{number}: expected a block of type 'text' with a text"
        if extra := sorted(set(block) - {"type", "text", "cache_control", "citations"}):
            return f"system.{number}.{extra[0]}: Extra inputs are not permitted"
        mark = block.get("cache_control")
        if not block["text"]:
            return f"system.{number}: " + (
                "cache_control cannot be set for empty text blocks" if mark else "text content blocks must be non-empty"
            )
        if mark and (mark.get("type") != "ephemeral" or mark.get("ttl", "5m") not in {"5m", "1h"} or set(mark) - {"type", "ttl"}):
            return f"system.{number}.cache_control: expected type 'ephemeral' and a ttl of '5m' or '1h'"
    if sum("cache_control" in block for block in system) > CACHE_MARKS:
        return f"A maximum of {CACHE_MARKS} blocks with cache_control may be provided."
    return None


def _check_messages(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in {"user", "assistant"} or not message.get("content"):
            return f"messages.{number}: expected a role 'user' or 'assistant' and non-empty content"
        for block in message["content"] if isinstance(message["content"], list) else []:
            results = block.get("content") if block.get("type") == "web_search_tool_result" else None
            if isinstance(results, list) and not all(r.get("encrypted_content") for r in results):
                return f"messages.{number}: web_search_result blocks must be sent back unchanged; encrypted_content is missing"
    last = messages[-1]
    paused = isinstance(last["content"], list) and any(b.get("type") == "server_tool_use" for b in last["content"])
    if last["role"] == "assistant" and not paused:
        return "This model does not support assistant message prefill. The conversation must end with a user message."
    return None


def _check_tools(body: dict[str, Any]) -> str | None:
    choice = (body.get("tool_choice") or {}).get("type", "auto")
    if choice in {"any", "tool"}:
        return f"tool_choice: type '{choice}' is not supported by this model; use 'auto' or 'none'."
    if (body.get("thinking") or {}).get("type") in {"disabled", "enabled"}:
        return f"thinking.type: '{body['thinking']['type']}' is not supported by this model; use 'adaptive' or 'between_tools'."
    for number, tool in enumerate(body.get("tools") or []):
        kind = tool.get("type", "custom")
        if kind != "custom" and kind not in TOOL_TYPES:
            return f"tools.{number}.type: Input tag '{kind}' does not match any of the expected tags"
        if tool.get("allowed_domains") and tool.get("blocked_domains"):
            return f"tools.{number}: only one of allowed_domains and blocked_domains may be given"
    return None


def _check_output(body: dict[str, Any]) -> str | None:
    config = body.get("output_config") or {}
    if config.get("effort") not in {None, "low", "medium", "high", "xhigh", "max"}:
        return f"output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max', not {config['effort']!r}"
    form = config.get("format")
    if not form:
        return None
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        return "output_config.format: expected type 'json_schema' and a schema"
    if any(str(tool.get("type", "")).startswith(("web_search", "web_fetch")) for tool in body.get("tools") or []):
        return "output_config.format: citations are not supported with structured outputs; web search always cites."
    return _check_schema(form["schema"], "output_config.format.schema")


def _check_schema(schema: Any, path: str) -> str | None:
    if isinstance(schema, list):
        return next((m for item in schema if (m := _check_schema(item, path))), None)
    if not isinstance(schema, dict):
        return None
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return f"{path}: For 'object' type, 'additionalProperties' must be explicitly set to false"
    unsupported = sorted(set(schema) & UNSUPPORTED_SCHEMA)
    if unsupported and "type" in schema:
        return f"{path}: For '{schema['type']}' type, property '{unsupported[0]}' is not supported"
    for name in ("properties", "$defs", "definitions"):
        for key, part in (schema.get(name) or {}).items():
            if message := _check_schema(part, f"{path}.{key}"):
                return message
    return next((m for name in ("items", "anyOf", "allOf", "oneOf") if (m := _check_schema(schema.get(name), path))), None)


def cacheable(body: dict[str, Any]) -> str:
    """The system text up to its last cache mark; empty where nothing is marked or it is too short to be cached."""
    system = body.get("system")
    marked = [n for n, block in enumerate(system) if block.get("cache_control")] if isinstance(system, list) else []
    text = "\n".join(block["text"] for block in system[: marked[-1] + 1]) if system and marked else ""
    return text if len(text) // 4 >= CACHE_LEAST else ""


def count_cached(usage: dict[str, Any], tokens: int, *, read: bool) -> dict[str, Any]:
    """The usage with `tokens` of its input counted as read from the cache, or as written to it."""
    tokens = min(tokens, usage["input_tokens"])
    counted = {**usage, "input_tokens": usage["input_tokens"] - tokens}
    if read:
        return {**counted, "cache_read_input_tokens": tokens}
    return {
        **counted,
        "cache_creation_input_tokens": tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": tokens, "ephemeral_1h_input_tokens": 0},
    }


# How an answer goes wrong


def _spoil(reply: dict[str, Any], fault: Fault) -> dict[str, Any]:
    """The brain's reply as the fault leaves it."""
    content = reply["content"]
    if fault.kind == "refusal":
        details = {"type": "refusal", "category": fault.category, "explanation": "This request may assist a disallowed use."}
        return {**reply, "content": [], "stop_reason": "refusal", "stop_details": details}
    if fault.kind == "max_tokens":
        return {**reply, "content": _cut(content), "stop_reason": "max_tokens"}
    if fault.kind == "malformed":
        return {**reply, "content": [{"type": "text", "text": "Sure, here it is: {not: json, 'pairs' [ oops"}]}
    if fault.kind == "short":
        return {**reply, "content": [{**b, "text": _shorter(b["text"])} if b["type"] == "text" else b for b in content]}
    if fault.kind == "pause_turn":
        results = [n for n, b in enumerate(content) if b["type"].endswith("_tool_result")]
        end = results[len(results) // 2] + 1 if results else max(1, len(content) // 2)
        return {**reply, "content": content[:end], "stop_reason": "pause_turn"}
    if fault.kind in {"search_error", "no_results"}:
        error = {"type": "web_search_tool_result_error", "error_code": fault.error_code}
        result: Any = error if fault.kind == "search_error" else []
        tools = [{**b, "content": result} if b["type"] == "web_search_tool_result" else b for b in content if b["type"] != "text"]
        return {**reply, "content": [*tools, {"type": "text", "text": "I found nothing that I could cite."}]}
    return reply


def _cut(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts = [n for n, b in enumerate(content) if b["type"] == "text"]
    if not texts:
        return content
    last = max(texts, key=lambda n: len(content[n]["text"]))
    kept = {**content[last], "text": content[last]["text"][: max(1, len(content[last]["text"]) // 2)]}
    return [*content[:last], {k: v for k, v in kept.items() if k != "citations"}]


def _shorter(text: str) -> str:
    """The JSON text with the last half of its first list missing."""
    with contextlib.suppress(json.JSONDecodeError):
        value = json.loads(text)
        if isinstance(value, dict):
            for name, items in value.items():
                if isinstance(items, list) and items:
                    return json.dumps({**value, name: items[: len(items) // 2]}, ensure_ascii=False)
    return text


# Wire formats


def _error(status: int, kind: str, message: str, request_id: str, headers: dict[str, str] | None = None) -> Response:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return JSONResponse(body, status_code=status, headers={"request-id": request_id, **(headers or {})})


def message_json(reply: dict[str, Any], body: dict[str, Any], key: str) -> dict[str, Any]:
    """The full message of a brain's reply."""
    searches = sum(1 for b in reply["content"] if b["type"] == "web_search_tool_result")
    fetches = sum(1 for b in reply["content"] if b["type"] == "web_fetch_tool_result")
    counted = {
        "input_tokens": _tokens([body.get("system"), body["messages"]]),
        "output_tokens": _tokens([b for b in reply["content"] if not b["type"].endswith("_tool_result")]),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
    }
    if searches or fetches:
        counted["server_tool_use"] = {"web_search_requests": searches, "web_fetch_requests": fetches}
    return {
        "id": f"msg_{key[:24]}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": reply["content"],
        "stop_reason": reply.get("stop_reason", "end_turn"),
        "stop_sequence": None,
        "stop_details": reply.get("stop_details"),
        "usage": {**counted, **(reply.get("usage") or {})},
    }


def sse_events(message: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server-sent events of one message, in the API's order."""
    usage = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "stop_details": None, "usage": {**usage, "output_tokens": 1}}
    yield "message_start", {"message": start}
    yield "ping", {}
    for index, block in enumerate(message["content"]):
        empty, deltas = _deltas(block)
        yield "content_block_start", {"index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    ending = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    counted = {name: usage[name] for name in ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")}
    if "server_tool_use" in usage:
        counted["server_tool_use"] = usage["server_tool_use"]
    yield "message_delta", {"delta": ending, "usage": counted}
    yield "message_stop", {}


def _deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "text":
        text, size = block["text"], 400
        parts = [{"type": "text_delta", "text": text[at : at + size]} for at in range(0, len(text), size)]
        cited = [{"type": "citations_delta", "citation": c} for c in block.get("citations") or []]
        return {"type": "text", "text": "", **({"citations": []} if cited else {})}, [*cited, *parts]
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block.get("signature", "")},
        ]
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if block["type"] in {"server_tool_use", "tool_use"}:
        text = json.dumps(block["input"], ensure_ascii=False)
        half = len(text) // 2
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in ("", text[:half], text[half:])]
    return block, []


def from_openai(body: dict[str, Any]) -> dict[str, Any]:
    """A chat completions body as a Messages body, for the brain."""
    system = "\n\n".join(m["content"] for m in body["messages"] if m["role"] in {"system", "developer"})
    messages = [{"role": m["role"], "content": m["content"]} for m in body["messages"] if m["role"] in {"user", "assistant"}]
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 4096
    out: dict[str, Any] = {"model": body["model"], "messages": messages, "max_tokens": limit, **({"system": system} if system else {})}
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        out["output_config"] = {"format": {"type": "json_schema", "schema": form["json_schema"]["schema"]}}
    return out


def to_openai(message: dict[str, Any], key: str) -> dict[str, Any]:
    """A message as a chat completion."""
    reasons = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "content_filter"}
    usage = message["usage"]
    text = "".join(b["text"] for b in message["content"] if b["type"] == "text")
    return {
        "id": f"chatcmpl-{key[:24]}",
        "object": "chat.completion",
        "created": 1795000000,
        "model": message["model"],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reasons.get(message["stop_reason"], "stop")}
        ],
        "usage": {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["input_tokens"] + usage["output_tokens"],
            "prompt_tokens_details": {"cached_tokens": usage["cache_read_input_tokens"]},
        },
    }


class _Server(uvicorn.Server):
    """uvicorn that stops when the bell rings, not at its next tick."""

    bell: asyncio.Event | None = None
    loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self.bell, self.loop = asyncio.Event(), asyncio.get_running_loop()
        while not self.should_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.bell.wait(), 0.1)

    def stop(self) -> None:
        self.should_exit = self.force_exit = True
        if self.loop is not None and self.bell is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self.loop.call_soon_threadsafe(self.bell.set)


class MessagesApi:
    """The stand-in on a port of 127.0.0.1. `scale` shortens the latencies (0: none), `jitter` varies them by a share, from `seed` and the request.

    `clock_offset` seconds are added to the server's wall clock (headers only). `requests` lists what arrived; `peak` is the most at one time.
    """

    def __init__(
        self,
        brain: Brain = answer,
        *,
        faults: Sequence[Fault] = (),
        limits: RateLimits | None = None,
        replay: Replay | None = None,
        scale: float = 0.0,
        latency: dict[str, float] | None = None,
        jitter: float = 0.0,
        seed: int = 0,
        models: Sequence[str] = MODELS,
        purpose: Callable[[dict[str, Any]], str] = purpose_of,
        clock_offset: float = 0.0,
        log: Path | str | None = None,
        keep_bodies: bool = True,
        port: int = 0,
    ) -> None:
        self.brain, self.faults, self.limits, self.replay = brain, list(faults), limits, replay
        self.scale, self.latency, self.jitter, self.seed = scale, {**LATENCY, **(latency or {})}, jitter, seed
        self.models, self.purpose, self.clock_offset, self.keep_bodies = models, purpose, clock_offset, keep_bodies
        self.requests: list[Seen] = []
        self._cached: set[tuple[str, str]] = set()  # (model, system text)
        self.active = self.peak = 0
        self._log = Path(log).open("a", encoding="utf-8") if log else None  # noqa: SIM115 - closed in stop()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen(2048)  # the usual small backlog costs 3 s of SYN retries when hundreds connect at once
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        routes = [
            Route("/v1/messages", self._messages, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/elsewhere", self._elsewhere, methods=["GET", "POST"]),
        ]
        self._app = Starlette(routes=routes)
        self.redirected = 0
        config = uvicorn.Config(self, log_config=None, log_level="critical", lifespan="off", ws="none", backlog=2048, date_header=False,
                                server_header=False, timeout_keep_alive=60)  # fmt: skip
        self.server = _Server(config)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()
        if self._thread:
            self._thread.join(10)
        self.stop()

    def stop(self) -> None:
        """Close what the server holds open."""
        self._socket.close()
        if self._log:
            self._log.close()

    def reset(self, *faults: Fault) -> None:
        """Forget the requests and the cache, and fail as told from now on."""
        self.requests.clear()
        self._cached.clear()
        self.faults = list(faults)
        self.redirected = self.active = self.peak = 0

    @property
    def keys(self) -> list[str]:
        """The sha256 of every request's body, in the order of arrival."""
        return [seen.key for seen in self.requests]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # uvicorn's own send knows the connection; a fault needs it to cut the line.
        scope["fake.transport"] = getattr(getattr(send, "__self__", None), "transport", None)
        await self._app(scope, receive, send)

    async def _messages(self, request: Request) -> Response:
        if self.replay:
            raw = await request.body()
            self._arrived(json.loads(raw), "replay", request)
            response = self.replay.response()
            self._answered(self.requests[-1], response.status_code)
            return response
        return await self._serve(request, openai=False)

    async def _chat(self, request: Request) -> Response:
        return await self._serve(request, openai=True)

    async def _elsewhere(self, request: Request) -> Response:
        self.redirected += 1
        return JSONResponse({"authorization": request.headers.get("authorization")})

    def _arrived(self, body: dict[str, Any], purpose: str, request: Request) -> Seen:
        seen = Seen(
            canonical_key(body),
            purpose,
            time.monotonic(),
            body if self.keep_bodies else {},
            dict(request.headers) if self.keep_bodies else {},
        )
        self.requests.append(seen)
        self.active += 1
        self.peak = max(self.peak, self.active)
        self._write({"event": "arrival", "n": len(self.requests), "key": seen.key, "purpose": purpose, "at": time.time()})
        return seen

    def _answered(self, seen: Seen, status: int) -> None:
        seen.status, seen.latency = status, time.monotonic() - seen.at
        self.active -= 1
        self._write(
            {
                "event": "answer",
                "key": seen.key,
                "purpose": seen.purpose,
                "status": status,
                "latency": round(seen.latency, 4),
                "given": round(seen.given, 4),
                "at": time.time(),
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        if self._log and not self._log.closed:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()

    async def _serve(self, request: Request, *, openai: bool) -> Response:
        raw = await request.body()
        try:
            sent = json.loads(raw)
            body = from_openai(sent) if openai else sent
        except (ValueError, KeyError, TypeError):
            return _error(400, "invalid_request_error", "The request body is not valid JSON", "req_none")
        purpose = self.purpose(body)
        seen = self._arrived(sent, purpose, request)
        status = 0
        try:
            response = await self._answer(request, body, seen, openai=openai)
            status = response.status_code
            if request.scope.get("fake.cut"):
                status = 0
            return response
        finally:
            self._answered(seen, status)

    async def _answer(self, request: Request, body: dict[str, Any], seen: Seen, *, openai: bool) -> Response:
        request_id = f"req_{seen.key[:20]}{len(self.requests):04d}"
        fault = next((f for f in self.faults if f.hits(body, seen.purpose, seen.key)), None)
        refused = self._refused(request, body, fault, openai=openai)
        if refused is None and self.limits and (over := self.limits.take(_tokens([body.get("system"), body["messages"]]))):
            wait = {"retry-after": str(max(1, round(over[1] + 0.5)))}
            refused = (429, "rate_limit_error", f"This request would exceed the rate limit of {over[0]} per minute.", wait)
        if refused:
            status, kind, message, extra = refused
            headers = {**self._limit_headers(openai=openai), **extra}
            if openai:
                code = {401: "invalid_api_key", 404: "model_not_found", 402: "insufficient_quota"}.get(status)
                error = {"error": {"message": message, "type": kind, "param": None, "code": code}}
                return JSONResponse(error, status_code=status, headers=headers)
            return _error(status, kind, message, request_id, headers)
        if fault and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        if fault and fault.kind == "drop":
            return self._hang_up(request, abort=True)
        reply = self._think(body)
        if fault:
            reply = _spoil(reply, fault)
        message = message_json(reply, body, seen.key)
        if not openai and (stable := (body["model"], cacheable(body)))[1]:
            message["usage"] = count_cached(message["usage"], len(stable[1]) // 4, read=stable in self._cached)
            self._cached.add(stable)
        seen.given = self._seconds(reply, seen)
        # What it took to think the answer up is part of the latency, not on top of it.
        await asyncio.sleep(max(0.0, seen.given - (time.monotonic() - seen.at)))
        if self.limits:
            self.limits.spend(message["usage"]["output_tokens"])
        headers = {"request-id": request_id, **self._limit_headers(openai=openai)}
        return self._send(request, message, headers, fault, seen.key, stream=bool(body.get("stream")), openai=openai)

    def _refused(
        self, request: Request, body: dict[str, Any], fault: Fault | None, *, openai: bool
    ) -> tuple[int, str, str, dict[str, str]] | None:
        """(status, type, message, headers) of a request that gets an error, by its key, its fault or the API's rules."""
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip() or request.headers.get("x-api-key", "")
        if key in {"", "invalid"}:
            return (*STATUS_FAULTS["bad_key"], {})
        if key in {"no-quota", "no-permission"}:
            return (*STATUS_FAULTS[key.replace("-", "_")], {})
        if fault and fault.kind in STATUS_FAULTS:
            wait = {} if fault.retry_after is None else {"retry-after": f"{fault.retry_after:g}"}
            return (*STATUS_FAULTS[fault.kind], wait)
        if openai:
            missing = body["model"].startswith("no-such")
            return (404, "invalid_request_error", f"The model `{body['model']}` does not exist", {}) if missing else None
        if "anthropic-version" not in request.headers:
            return 400, "invalid_request_error", "anthropic-version: header is required", {}
        wrong = check(body, self.models)
        return (*wrong, {}) if wrong else None

    def _think(self, body: dict[str, Any]) -> dict[str, Any]:
        """The brain's reply; a paused turn that was sent back is answered with what is still missing."""
        base = list(body["messages"])
        echoed: list[Any] = []
        while base and base[-1]["role"] == "assistant" and isinstance(base[-1]["content"], list):
            echoed = [*base.pop()["content"], *echoed]
        if not echoed:
            return self.brain(body)
        whole = self.brain({**body, "messages": base})
        # A brain that pauses by itself (a recording) knows what comes next.
        same = whole["content"][: len(echoed)] == echoed and whole["stop_reason"] != "pause_turn"
        return {**whole, "content": whole["content"][len(echoed) :]} if same else self.brain(body)

    def _seconds(self, reply: dict[str, Any], seen: Seen) -> float:
        real = reply.get("latency")
        if real is None:
            real = self.latency.get(seen.purpose, self.latency["other"])
        spread = random.Random(f"{self.seed}:{seen.key}").uniform(-self.jitter, self.jitter)  # noqa: S311 - not for secrets
        return float(real) * self.scale * (1 + spread)

    def _limit_headers(self, *, openai: bool) -> dict[str, str]:
        now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.clock_offset)
        headers = {"date": format_datetime(now.replace(microsecond=0), usegmt=True)}
        for name, limit, left, full_in in self.limits.states() if self.limits else ():
            if openai:
                short = {"requests": "requests", "input-tokens": "tokens"}.get(name)
                if short:
                    facts = {"limit": str(limit), "remaining": str(left), "reset": f"{full_in:.3f}s"}
                    headers |= {f"x-ratelimit-{fact}-{short}": value for fact, value in facts.items()}
                continue
            reset = (now + dt.timedelta(seconds=full_in)).strftime("%Y-%m-%dT%H:%M:%SZ")
            names = (name, "tokens") if name == "input-tokens" else (name,)
            for each in names:
                facts = {"limit": str(limit), "remaining": str(left), "reset": reset}
                headers |= {f"anthropic-ratelimit-{each}-{fact}": value for fact, value in facts.items()}
        return headers

    def _hang_up(self, request: Request, *, abort: bool) -> Response:
        transport = request.scope["fake.transport"]
        request.scope["fake.cut"] = True
        transport.abort() if abort else transport.close()
        return Response(status_code=500)

    def _send(
        self,
        request: Request,
        message: dict[str, Any],
        headers: dict[str, str],
        fault: Fault | None,
        key: str,
        *,
        stream: bool,
        openai: bool,
    ) -> Response:
        kind = fault.kind if fault else ""
        if kind in {"html_200", "html_502"}:
            return HTMLResponse("<html><body><h1>Welcome to our gateway</h1></body></html>", status_code=int(kind[5:]), headers=headers)
        if kind == "json_200":
            return JSONResponse({"ok": True}, headers=headers)
        if kind == "redirect":
            return RedirectResponse(f"{self.url}/elsewhere", status_code=307, headers=headers)
        if stream:
            return StreamingResponse(self._stream(request, message, kind), media_type="text/event-stream", headers=headers)
        whole = json.dumps(to_openai(message, key) if openai else message, ensure_ascii=False, separators=(",", ":")).encode()
        if kind == "broken_body":
            sized = {**headers, "content-length": str(len(whole))}
            return StreamingResponse(self._half(request, whole), media_type="application/json", headers=sized)
        return Response(whole, media_type="application/json", headers=headers)

    async def _half(self, request: Request, whole: bytes) -> AsyncIterator[bytes]:
        yield whole[: len(whole) // 2]
        self._hang_up(request, abort=False)
        await asyncio.sleep(0.01)  # uvicorn must notice the closed line before it counts the missing bytes

    async def _stream(self, request: Request, message: dict[str, Any], kind: str) -> AsyncIterator[bytes]:
        events = list(sse_events(message))
        for number, (name, data) in enumerate(events):
            if number == len(events) // 2 and kind == "stream_error":
                error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
                yield f"event: error\ndata: {json.dumps(error)}\n\n".encode()
                return
            if number == len(events) // 2 and kind in {"stream_cut", "broken_body"}:
                self._hang_up(request, abort=False)
                await asyncio.sleep(0.01)
                return
            yield f"event: {name}\ndata: {json.dumps({'type': name, **data}, ensure_ascii=False)}\n\n".encode()


def _load(name: str) -> tuple[Brain, Callable[[dict[str, Any]], str]]:
    """The brain `module:function`; its module may bring its own purpose_of."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError:
        if name != "fakes.brain:answer":
            raise
        return answer, purpose_of
    return getattr(module, function or "answer"), getattr(module, "purpose_of", purpose_of)


def main() -> None:
    """Serve until killed; prints the URL first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scale", type=float, default=0.0, help="real latencies times this")
    parser.add_argument("--jitter", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", help="JSON line per arrival and answer")
    parser.add_argument("--faults", default="[]", help="JSON list of faults: kind, when, times, skip, each, retry_after, seconds")
    parser.add_argument("--rpm", type=int)
    parser.add_argument("--itpm", type=int)
    parser.add_argument("--otpm", type=int)
    parser.add_argument("--brain", default="fakes.brain:answer")
    parser.add_argument("--replay", help="a cassette to serve instead of the brain")
    asked = parser.parse_args()
    brain, purpose = _load(asked.brain)
    limits = RateLimits(asked.rpm, asked.itpm, asked.otpm) if asked.rpm or asked.itpm or asked.otpm else None
    api = MessagesApi(
        brain,
        faults=[Fault(**fault) for fault in json.loads(asked.faults)],
        limits=limits,
        replay=Replay(asked.replay) if asked.replay else None,
        scale=asked.scale,
        jitter=asked.jitter,
        seed=asked.seed,
        purpose=purpose,
        log=asked.log,
        keep_bodies=False,
        port=asked.port,
    )
    print(api.url, flush=True)
    api.server.run(sockets=[api._socket])
    api.stop()


if __name__ == "__main__":
    main()
