"""Claude through the official SDK: one attempt, without the SDK's own retries, with the rate limits that the headers tell.

The content blocks of a reply are the ones on the wire, not the SDK's reading of them: what is sent back after a pause must be unchanged. The
environment (ANTHROPIC_BASE_URL, ANTHROPIC_CUSTOM_HEADERS, ...) changes nothing; key and address are passed in. How each failure looks in
anthropic 2.12 was measured against the stand-in of the tests: an error event inside a stream arrives with status 200 and must be told by its type, and
HTML with status 200 is no error of the SDK at all.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import anthropic
import httpx2

from pipeline.callers import BY_STATUS, count, retry_after, said, seconds_until, tls
from pipeline.ports import CallFailed, Limits, ModelReply, ModelRequest, Usage

ADDRESS = "https://api.anthropic.com"
# Steps that send the same system text with every call of a run. It is marked for the provider's cache (five minutes, renewed by each use); shorter than the
# model's least length it is simply not cached.
CACHED = frozenset({"synthesis", "judge"})
STREAM_FACTOR = 5  # a stream may take this many times timeout_s as a whole; between two pieces never more than timeout_s

_BY_TYPE = {
    "authentication_error": "bad_key",
    "permission_error": "no_permission",
    "billing_error": "no_quota",
    "not_found_error": "no_such_model",
    "request_too_large": "too_large",
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "timeout_error": "timeout",
    "api_error": "server_error",
    "invalid_request_error": "invalid_request",
}
_ADVICE = {
    "bad_key": "The Anthropic API refused the key. Set ANTHROPIC_API_KEY to a valid one.",
    "no_permission": "The key may not use this model or tool. Ask the owner of the Anthropic organisation, or choose another --model.",
    "no_quota": "The Anthropic account has no credit left. Add credit, then go on with --resume.",
    "no_such_model": "The Anthropic API does not know the model or the address. Choose another --model, or check the address.",
    "too_large": "The request is larger than the API takes. Give shorter documents, or a smaller --batch-size.",
    "rate_limited": "The Anthropic API asks to slow down.",
    "overloaded": "The Anthropic API is overloaded.",
    "timeout": "The Anthropic API did not answer in time.",
    "server_error": "The Anthropic API had an error of its own.",
    "invalid_request": "The Anthropic API refused the request.",
    "connection": "The connection to the Anthropic API failed or broke off. Check the network and the address.",
    "not_json": "Expected a message of the Anthropic API, found something else. Check the address; a proxy may be answering.",
}


class AnthropicCaller:
    """ModelCaller for the Messages API. `timeout_s` covers the whole answer, or each piece of a stream; `model` names the writer on cards."""

    def __init__(
        self,
        api_key: str,
        base_url: str | None = None,
        timeout_s: float = 180.0,
        *,
        stream: bool = False,
        model: str = "claude",
        connections: int = 100,
    ) -> None:
        self.generator = f"{model} (Anthropic)"
        self._key, self._timeout_s, self._stream = api_key, timeout_s, stream
        pool = httpx2.Limits(max_connections=max(100, connections), max_keepalive_connections=max(100, connections))
        timeout = httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s))
        http = httpx2.AsyncClient(timeout=timeout, limits=pool, follow_redirects=False, trust_env=False, verify=tls())
        with _without_environment():
            self._client = anthropic.AsyncAnthropic(
                api_key=api_key, base_url=base_url or ADDRESS, timeout=timeout, max_retries=0, http_client=http
            )

    async def send(self, request: ModelRequest) -> tuple[ModelReply, Limits]:
        """Make one HTTP attempt. Raises CallFailed."""
        body = wire_body(request)
        try:
            async with asyncio.timeout(self._timeout_s * (STREAM_FACTOR if self._stream else 1)):
                message, headers = await (self._streamed(body) if self._stream else self._whole(body))
        except CallFailed:
            raise
        except anthropic.APIStatusError as error:
            raise self._refused(error, request) from None
        except (TimeoutError, anthropic.APITimeoutError, httpx2.TimeoutException):
            raise CallFailed("timeout", f"{_ADVICE['timeout']} Waited {self._timeout_s:g} s.") from None
        except (anthropic.APIConnectionError, httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise CallFailed("connection", f"{_ADVICE['connection']} ({type(error).__name__})") from None
        except (json.JSONDecodeError, UnicodeDecodeError, anthropic.AnthropicError) as error:
            raise CallFailed("not_json", f"{_ADVICE['not_json']} ({type(error).__name__})") from None
        return read_message(message, headers.get("request-id")), read_limits(headers)

    async def close(self) -> None:
        """Close the connections; an unclosed client may lose answers."""
        await self._client.close()

    async def _whole(self, body: dict[str, Any]) -> tuple[Any, Mapping[str, str]]:
        raw = await self._client.messages.with_raw_response.create(**body)
        return json.loads(raw.http_response.content), raw.headers

    async def _streamed(self, body: dict[str, Any]) -> tuple[Any, Mapping[str, str]]:
        async with self._client.messages.stream(**body) as stream:
            headers = stream.response.headers
            if not headers.get("content-type", "").startswith("text/event-stream"):
                raise CallFailed("not_json", f"{_ADVICE['not_json']} Expected a stream of events.", status=200)
            ended = False
            async for event in stream:
                ended = ended or event.type == "message_stop"
            if not ended:
                raise CallFailed("connection", f"{_ADVICE['connection']} The stream ended before the message did.")
            message = stream.current_message_snapshot.to_dict(mode="json")
        for block in message["content"]:  # type: ignore[attr-defined]
            block.pop("parsed_output", None)  # the SDK's own addition; the API refuses it when it is sent back
        return message, headers

    def _refused(self, error: anthropic.APIStatusError, request: ModelRequest) -> CallFailed:
        words = said(error.api_message or "", self._key)  # never the raw body: it may be a page of HTML
        status = error.status_code
        reason = _BY_TYPE.get(str(error.type)) or BY_STATUS.get(status) or ("server_error" if status >= 500 else "invalid_request")
        if "credit balance" in words.lower():
            reason = "no_quota"
        sentence = f"{_ADVICE[reason]} It said (HTTP {status}): {words}" if words else f"{_ADVICE[reason]} (HTTP {status})"
        if 300 <= status < 400:
            sentence = f"Expected an answer, found a redirect (HTTP {status}); redirects are not followed. Set the final address."
        elif reason == "no_such_model":
            sentence = f"{sentence} (asked for {request.model[:80]!a})"
        elif reason == "invalid_request" and request.schema is not None and _names_format(words):
            sentence = (
                f"The model {request.model[:80]!a} does not take a schema (output_config.format). Choose another --model. It said: {words}"
            )
        return CallFailed(reason, sentence, status=status, retry_after=retry_after(error.response.headers))


def wire_body(request: ModelRequest) -> dict[str, Any]:
    """The request as the Messages API wants it. No sampling parameters, no forced tool: the API of 2026-10-21 refuses them."""
    body: dict[str, Any] = {"model": request.model, "max_tokens": request.max_tokens, "messages": list(request.messages)}
    if request.system is not None:
        body["system"] = _system(request)
    if request.tools:
        body["tools"] = list(request.tools)
    output: dict[str, Any] = {}
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": request.schema}
    if request.effort is not None:
        output["effort"] = request.effort
    return {**body, "output_config": output} if output else body


def _system(request: ModelRequest) -> str | list[dict[str, Any]]:
    if request.purpose not in CACHED or not request.system:  # an empty block cannot be cached: the API refuses it
        return request.system or ""
    return [{"type": "text", "text": request.system, "cache_control": {"type": "ephemeral"}}]


def read_message(message: Any, request_id: str | None) -> ModelReply:
    """The reply in a message's JSON. Raises CallFailed not_json for anything that is no message."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list) or not message.get("stop_reason"):
        raise CallFailed("not_json", f"{_ADVICE['not_json']} Expected content and a stop_reason.", status=200)
    content = tuple(message["content"])
    text = "".join(block.get("text") or "" for block in content if block.get("type") == "text")
    return ModelReply(
        text=text,
        content=content,
        stop_reason=message["stop_reason"],
        usage=_usage(message.get("usage") or {}),
        model=message.get("model") or "",
        request_id=request_id,
        stop_details=message.get("stop_details"),
    )


def read_limits(headers: Mapping[str, str]) -> Limits:
    """The anthropic-ratelimit headers of a response; resets count from the response's own date."""
    facts: dict[str, Any] = {}
    for ours, theirs in (("requests", "requests"), ("input_tokens", "input-tokens"), ("output_tokens", "output-tokens")):
        prefix = f"anthropic-ratelimit-{theirs}"
        facts[f"{ours}_limit"] = count(headers, f"{prefix}-limit")
        facts[f"{ours}_remaining"] = count(headers, f"{prefix}-remaining")
        facts[f"{ours}_reset_s"] = seconds_until(headers, f"{prefix}-reset")
    return Limits(**facts)


def _usage(usage: Mapping[str, Any]) -> Usage:
    tools = usage.get("server_tool_use") or {}
    return Usage(
        input_tokens=usage.get("input_tokens") or 0,
        output_tokens=usage.get("output_tokens") or 0,
        cache_read_tokens=usage.get("cache_read_input_tokens") or 0,
        cache_write_tokens=usage.get("cache_creation_input_tokens") or 0,
        web_searches=tools.get("web_search_requests") or 0,
        web_fetches=tools.get("web_fetch_requests") or 0,
    )


def _names_format(words: str) -> bool:
    lower = words.lower()
    return "not support" in lower and any(name in lower for name in ("output_config", "output_format", "structured output", "format"))


@contextlib.contextmanager
def _without_environment() -> Iterator[None]:
    """The SDK reads ANTHROPIC_* while it is built, custom headers even with an explicit key; so the variables are put aside for that moment."""
    aside = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ANTHROPIC_")}
    try:
        yield
    finally:
        os.environ.update(aside)
