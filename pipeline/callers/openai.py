"""Any OpenAI-compatible `/chat/completions`, a local server too: one attempt over httpx2. It writes; it cannot search the web.

`base_url` ends before /chat/completions, usually in /v1. Local servers rarely send rate limit headers; then the governor works by its own settings.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx2

from pipeline.callers import BY_STATUS, count, duration, retry_after, said, tls
from pipeline.ports import CallFailed, Limits, ModelReply, ModelRequest, Usage

ADDRESS = "https://api.openai.com/v1"
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}

_BY_STATUS = BY_STATUS | {503: "overloaded"}  # what such endpoints answer when their queue is full
_ADVICE = {
    "bad_key": "The endpoint refused the key. Set OPENAI_API_KEY to a valid one.",
    "no_permission": "The key may not use this model. Choose another --model or key.",
    "no_quota": "The account at the endpoint has no quota left. Add credit, then go on with --resume.",
    "no_such_model": "The endpoint does not know the model or the address. Choose another --model, or check the address; it usually ends in /v1.",
    "too_large": "The request is larger than the endpoint takes. Use a smaller --batch-size.",
    "rate_limited": "The endpoint asks to slow down.",
    "overloaded": "The endpoint is overloaded.",
    "timeout": "The endpoint did not answer in time.",
    "server_error": "The endpoint had an error of its own.",
    "invalid_request": "The endpoint refused the request.",
    "connection": "The connection to the endpoint failed or broke off. Check that it runs, and its address.",
    "not_json": "Expected a chat completion, found something else. Check the address; a proxy may be answering.",
}


class OpenAICaller:
    """ModelCaller for an OpenAI-compatible endpoint. `timeout_s` covers the whole answer; `model` names the writer on cards."""

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None = None,
        timeout_s: float = 180.0,
        *,
        model: str = "unnamed model",
        connections: int = 100,
    ) -> None:
        self._key, self._timeout_s = api_key, timeout_s
        address = (base_url or ADDRESS).rstrip("/")
        self.generator = f"{model} ({'OpenAI' if address == ADDRESS else 'OpenAI-compatible endpoint'})"
        self._url = f"{address}/chat/completions"
        # OpenAI's newer models refuse max_tokens; local servers (vLLM, llama.cpp, Ollama) may know only that older name.
        self._limit = "max_completion_tokens" if address == ADDRESS else "max_tokens"
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            limits=httpx2.Limits(max_connections=max(100, connections), max_keepalive_connections=max(100, connections)),
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            follow_redirects=False,
            trust_env=False,
            verify=tls(),
        )

    async def send(self, request: ModelRequest) -> tuple[ModelReply, Limits]:
        """Make one HTTP attempt. Raises CallFailed."""
        if request.tools:
            raise CallFailed(
                "invalid_request", "An OpenAI-compatible endpoint has no web search here. Set ANTHROPIC_API_KEY for web research."
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.post(self._url, json=wire_body(request, self._limit))
        except (TimeoutError, httpx2.TimeoutException):
            raise CallFailed("timeout", f"{_ADVICE['timeout']} Waited {self._timeout_s:g} s.") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise CallFailed("connection", f"{_ADVICE['connection']} ({type(error).__name__})") from None
        if not response.is_success:
            raise self._refused(response, request)
        try:
            body = json.loads(response.content)
        except ValueError:
            raise CallFailed("not_json", f"{_ADVICE['not_json']} (HTTP {response.status_code})", status=response.status_code) from None
        return read_completion(body, response.headers.get("x-request-id")), read_limits(response.headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _refused(self, response: httpx2.Response, request: ModelRequest) -> CallFailed:
        status = response.status_code
        try:
            error = json.loads(response.content)["error"]
            words, code = (
                (error.get("message", ""), str(error.get("code") or error.get("type") or "")) if isinstance(error, dict) else (error, "")
            )
        except (ValueError, KeyError, TypeError):
            words, code = "", ""
        words = said(words, self._key)
        reason = _BY_STATUS.get(status) or ("server_error" if status >= 500 else "invalid_request")
        if code in {"insufficient_quota", "billing_error"} or "credit balance" in words.lower():
            reason = "no_quota"
        sentence = f"{_ADVICE[reason]} It said (HTTP {status}): {words}" if words else f"{_ADVICE[reason]} (HTTP {status})"
        if 300 <= status < 400:
            sentence = f"Expected an answer, found a redirect (HTTP {status}); redirects are not followed. Set the final address."
        elif reason == "no_such_model":
            sentence = f"{sentence} (asked for {request.model[:80]!a})"
        elif (
            reason == "invalid_request"
            and request.schema is not None
            and any(w in words.lower() for w in ("response_format", "json_schema"))
        ):
            sentence = (
                f"The model {request.model[:80]!a} does not take a schema (response_format). Choose another --model. It said: {words}"
            )
        return CallFailed(reason, sentence, status=status, retry_after=retry_after(response.headers))


def wire_body(request: ModelRequest, limit: str = "max_tokens") -> dict[str, Any]:
    """The request as chat completions; blocks of text become one string, `limit` is the field for max_tokens."""
    messages = [{"role": "system", "content": request.system}] if request.system is not None else []
    messages += [{"role": m["role"], "content": _text(m["content"])} for m in request.messages]
    body: dict[str, Any] = {"model": request.model, "messages": messages, limit: request.max_tokens}
    if request.schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": request.schema}}
    return body


def read_completion(body: Any, request_id: str | None) -> ModelReply:
    """The reply in a chat completion. Raises CallFailed not_json for anything that is none."""
    try:
        choice = body["choices"][0]
        message, finish = choice["message"], choice["finish_reason"]
        text = message.get("content") or ""
        refusal = message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CallFailed("not_json", f"{_ADVICE['not_json']} Expected choices with a message.", status=200) from None
    if not isinstance(text, str):
        raise CallFailed("not_json", f"{_ADVICE['not_json']} Expected text in the message.", status=200)
    stop = "refusal" if refusal else STOP_REASONS.get(finish, str(finish))
    usage = body.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return ModelReply(
        text=text,
        content=({"type": "text", "text": text},) if text else (),
        stop_reason=stop,
        usage=Usage(
            input_tokens=max(0, (usage.get("prompt_tokens") or 0) - cached),
            output_tokens=usage.get("completion_tokens") or 0,
            cache_read_tokens=cached,
        ),
        model=body.get("model") or "",
        request_id=request_id or body.get("id"),
        stop_details={"type": "refusal", "category": None, "explanation": refusal} if stop == "refusal" else None,
    )


def read_limits(headers: Mapping[str, str]) -> Limits:
    """The x-ratelimit headers. Their tokens are input and output together; they go to the input side, where most of ours are."""
    return Limits(
        requests_limit=count(headers, "x-ratelimit-limit-requests"),
        requests_remaining=count(headers, "x-ratelimit-remaining-requests"),
        requests_reset_s=duration(headers.get("x-ratelimit-reset-requests")),
        input_tokens_limit=count(headers, "x-ratelimit-limit-tokens"),
        input_tokens_remaining=count(headers, "x-ratelimit-remaining-tokens"),
        input_tokens_reset_s=duration(headers.get("x-ratelimit-reset-tokens")),
    )


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(block.get("text", "") for block in content if block.get("type") == "text")
