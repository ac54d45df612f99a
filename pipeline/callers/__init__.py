"""Transports to language models: one HTTP attempt per `send`, every failure as a CallFailed. Waiting and retrying happen in pipeline/calls.py.

Redirects are not followed and proxies of the environment are not used: a key goes to the configured address and nowhere else.
"""

import contextlib
import datetime as dt
import functools
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from pipeline.config import Controls, PipelineConfig
from pipeline.ports import Limits, ModelCaller, ModelReply, ModelRequest
from pipeline.values import PipelineFailed

SECRET = 8  # characters; anything shorter is no real key, and hiding it would garble the words
MAX_MESSAGE = 300  # characters of a provider's own words in one of our sentences
# What a status means for a call, where the provider's body does not say it better.
BY_STATUS = {
    401: "bad_key",
    402: "no_quota",
    403: "no_permission",
    404: "no_such_model",
    408: "timeout",
    409: "server_error",
    413: "too_large",
    429: "rate_limited",
    504: "timeout",
    529: "overloaded",
}


@dataclass
class Callers:
    """Who is asked: `research` searches the web (None where the provider has no such tool), `writer` does everything else."""

    research: ModelCaller | None
    writer: ModelCaller

    def __post_init__(self) -> None:
        """Name who writes the pairs."""
        self.generator = self.writer.generator

    async def send(self, request: ModelRequest) -> tuple[ModelReply, Limits]:
        """Requests with tools go to `research`, the others to `writer`: with it, Callers is itself a ModelCaller."""
        caller = self.research if request.tools and self.research is not None else self.writer
        return await caller.send(request)

    async def close(self) -> None:
        """Close both."""
        await self.writer.close()
        if self.research is not None and self.research is not self.writer:
            await self.research.close()


def check_access(config: PipelineConfig, controls: Controls) -> tuple[str | None, str | None]:
    """The usable keys (Anthropic's, OpenAI's). Raises PipelineFailed, with what to do, where one is missing; opens and writes nothing."""
    anthropic_key, openai_key = _key(controls.keys.anthropic, "ANTHROPIC_API_KEY"), _key(controls.keys.openai, "OPENAI_API_KEY")
    for address in (controls.endpoints.anthropic, controls.endpoints.openai):
        _check_address(address)
    if config.provider == "anthropic" and not anthropic_key:
        raise PipelineFailed(
            "There is no key for the Anthropic API.",
            "Set ANTHROPIC_API_KEY, or bring data with `registry datasets import`, or choose another provider with --provider openai.",
        )
    if config.provider != "anthropic" and not openai_key and not controls.endpoints.openai:
        raise PipelineFailed(
            "There is neither a key nor an address for an OpenAI-compatible endpoint.",
            "Set OPENAI_API_KEY, or the address of a local endpoint, or bring data with `registry datasets import`.",
        )
    return anthropic_key, openai_key


def open_callers(config: PipelineConfig, controls: Controls) -> Callers:
    """The callers for an order. Raises what `check_access` raises."""
    endpoints = controls.endpoints
    anthropic_key, openai_key = check_access(config, controls)
    research: ModelCaller | None = None
    if anthropic_key:
        from pipeline.callers.anthropic import AnthropicCaller

        research = AnthropicCaller(
            anthropic_key,
            endpoints.anthropic,
            controls.timeout_s,
            stream=controls.stream,
            model=config.model,
            connections=controls.concurrency,
        )
    if config.provider == "anthropic" and research is not None:
        return Callers(research, research)
    from pipeline.callers.openai import OpenAICaller

    writer = OpenAICaller(openai_key, endpoints.openai, controls.timeout_s, model=config.model, connections=controls.concurrency)
    return Callers(research, writer)


@functools.cache
def tls() -> ssl.SSLContext:
    """The certificates that both transports trust; reading them costs some 50 ms, so it is done once."""
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)


def _key(key: str | None, name: str) -> str | None:
    """The key without the blanks that pasting adds; None for an empty one. Raises PipelineFailed for what can be no key, without showing it."""
    bare = (key or "").strip()
    if bare and not (bare.isascii() and bare.isprintable() and " " not in bare):
        raise PipelineFailed(f"The key in {name} has blanks, line breaks or letters that no key has.", f"Set {name} again.")
    return bare or None


def _check_address(address: str | None) -> None:
    if address is None:
        return
    try:
        parts = urlsplit(address)
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
        fine = fine and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise PipelineFailed(f"Expected an address such as https://host/v1, found {address[:100]!a}.", "Correct the endpoint's setting.")


def said(text: object, secret: str | None) -> str:
    """A provider's words for our sentence: one line, cut, without the key."""
    words = " ".join(str(text).split())
    if secret and len(secret) >= SECRET:
        words = words.replace(secret, "(key)")
    return words if len(words) <= MAX_MESSAGE else words[: MAX_MESSAGE - 3] + "..."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, or None. A date counts from the response's own `date`, because our clock may be wrong."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            return max(0.0, float(headers[name]) / unit)
    with contextlib.suppress(KeyError, ValueError, TypeError):
        then, now = parsedate_to_datetime(headers["retry-after"]), parsedate_to_datetime(headers["date"])
        return max(0.0, (then - now).total_seconds())
    return None


def count(headers: Mapping[str, str], name: str) -> int | None:
    """A header's number, or None where it is missing or no number."""
    with contextlib.suppress(KeyError, ValueError):
        return int(headers[name])
    return None


def seconds_until(headers: Mapping[str, str], name: str) -> float | None:
    """Seconds from the response's own `date` to the RFC 3339 time in a header, at least 0."""
    with contextlib.suppress(KeyError, ValueError, TypeError):
        then = dt.datetime.fromisoformat(headers[name])
        return max(0.0, (then - parsedate_to_datetime(headers["date"])).total_seconds())
    return None


_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def duration(text: str | None) -> float | None:
    """Seconds in a text such as 6m0s, 1.5s or 120ms; None for anything else."""
    parts = _PART.findall(text or "")
    if not parts or "".join(n + u for n, u in parts) != text:
        return None
    return float(sum(float(number) * _UNIT[unit] for number, unit in parts))
