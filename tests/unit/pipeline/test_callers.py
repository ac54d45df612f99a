"""Both transports against the stand-in over loopback: every way to fail has its reason, and a recording arrives as it was recorded."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.messages_api import STATUS_FAULTS, Fault, MessagesApi, RateLimits, Replay, searched

from pipeline.callers import Callers, duration, open_callers, retry_after, said
from pipeline.callers.anthropic import AnthropicCaller, wire_body
from pipeline.callers.openai import OpenAICaller
from pipeline.config import Controls, Endpoints, Keys, PipelineConfig
from pipeline.ports import CallFailed, ModelRequest, Usage
from pipeline.values import PipelineFailed

REPO = Path(__file__).resolve().parents[3]
KEY = "sk-ant-secret-0123456789"
SEARCH = ({"type": "web_search_20250305", "name": "web_search", "max_uses": 3},)
SCHEMA = {"type": "object", "properties": {"pairs": {"type": "array", "items": {"type": "string"}}}, "additionalProperties": False}


def request(text="How do I rest?", **facts):
    return ModelRequest("test", facts.pop("model", "claude-sonnet-5-5"), ({"role": "user", "content": text},), 500, **facts)


def send(caller, *requests):
    """Send them in a row and close the caller; a failure is returned, not raised."""

    async def main():
        got = []
        for each in requests:
            try:
                got.append(await caller.send(each))
            except CallFailed as error:
                got.append(error)
        await caller.close()
        return got

    return asyncio.run(main())


def claude(api, *requests, key=KEY, timeout_s=5.0, stream=False):
    return send(AnthropicCaller(key, api.url, timeout_s, stream=stream), *requests)


def chat(api, *requests, key=KEY, timeout_s=5.0):
    return send(OpenAICaller(key, api.url + "/v1", timeout_s), *requests)


@pytest.fixture(scope="module")
def server():
    with MessagesApi() as api:
        yield api


@pytest.fixture
def api(server):
    """One server for many tests; each starts it anew."""
    server.reset()
    yield server
    server.reset()


FAILURES = [
    ("rate_limited", "rate_limited", 429),
    ("overloaded", "overloaded", 529),
    ("server_error", "server_error", 500),
    ("timeout504", "timeout", 504),
    ("bad_key", "bad_key", 401),
    ("no_quota", "no_quota", 402),
    ("no_quota_400", "no_quota", 400),
    ("no_permission", "no_permission", 403),
    ("no_such_model", "no_such_model", 404),
    ("too_large", "too_large", 413),
    ("invalid_request", "invalid_request", 400),
    ("html_200", "not_json", None),
    ("html_502", "server_error", 502),
    ("json_200", "not_json", 200),
    ("drop", "connection", None),
    ("broken_body", "connection", None),
    ("redirect", "invalid_request", 307),
]


@pytest.mark.parametrize(("kind", "reason", "status"), FAILURES)
def test_every_failure_has_its_reason_on_every_transport(api, kind, reason, status):
    transports = {"whole": claude, "stream": lambda api, r: claude(api, r, stream=True), "chat": chat}
    for name, ask in transports.items():
        api.reset(Fault(kind, retry_after=3))
        (error,) = ask(api, request())
        assert isinstance(error, CallFailed), name
        assert error.reason == reason, (name, error.message)
        assert kind == "html_200" or error.status == status, name
        assert len(api.requests) == 1, f"{name}: the transport retries by itself"
        assert api.redirected == 0
        assert KEY not in error.message
        assert "<" not in error.message
        assert error.retry_after == (3 if kind in STATUS_FAULTS else None), name


@pytest.mark.parametrize(("kind", "reason"), [("stream_error", "overloaded"), ("stream_cut", "connection")])
def test_a_stream_that_breaks_in_the_middle_is_a_failure_that_may_be_retried(kind, reason):
    with MessagesApi(faults=[Fault(kind)]) as api:
        error, (reply, _) = claude(api, request(), request(), stream=True)
    assert (error.reason, error.retryable) == (reason, True)
    assert reply.stop_reason == "end_turn"


@pytest.mark.parametrize("ask", [claude, chat])
def test_a_server_that_hangs_is_a_timeout(ask):
    with MessagesApi(faults=[Fault("slow", seconds=3)]) as api:
        (error,) = ask(api, request(), timeout_s=0.15)
    assert (error.reason, "0.15" in error.message) == ("timeout", True)


@pytest.mark.parametrize("ask", [claude, chat])
def test_an_address_where_nobody_listens(ask):
    with MessagesApi() as api:
        pass
    (error,) = ask(api, request())
    assert error.reason == "connection"


@pytest.mark.parametrize(("kind", "stop"), [("refusal", "refusal"), ("max_tokens", "max_tokens")])
def test_a_refusal_and_a_cut_answer_are_replies(kind, stop):
    for ask in (claude, lambda api, r: claude(api, r, stream=True), chat):
        with MessagesApi(faults=[Fault(kind)]) as api:
            ((reply, _),) = ask(api, request())
        assert reply.stop_reason == stop
    assert kind != "refusal" or claude_details()["category"] == "frontier_llm"


def claude_details():
    with MessagesApi(faults=[Fault("refusal")]) as api:
        return claude(api, request())[0][0].stop_details


def test_the_models_that_take_no_schema_are_named():
    with MessagesApi(faults=[Fault("format_unsupported")]) as api:
        (error,) = claude(api, request(schema=SCHEMA))
    assert error.reason == "invalid_request"
    assert "'claude-sonnet-5-5' does not take a schema (output_config.format)" in error.message


def test_the_request_goes_out_as_asked_and_nothing_else():
    with MessagesApi() as api:
        ((reply, _),) = claude(api, request(schema=SCHEMA, effort="low", system="Be short."))
    sent = api.requests[0]
    assert sent.body == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": "How do I rest?"}],
        "system": "Be short.",
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
    }
    assert sent.headers["anthropic-version"] == "2026-10-21"
    assert json.loads(reply.text) == {"pairs": []}


STABLE = "Write kindly and at length. " * 200  # 1,400 tokens as the stand-in counts them


@pytest.mark.parametrize(
    ("purpose", "system", "sent"),
    [
        ("synthesis", "Be short.", [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}]),
        ("judge", "Be short.", [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}]),
        ("extract", "Be short.", "Be short."),
        ("queries", "Be short.", "Be short."),
        ("web_1", "Be short.", "Be short."),
        ("synthesis", "", ""),
        ("synthesis", None, None),
    ],
)
def test_the_system_text_that_repeats_is_marked_for_the_cache(purpose, system, sent):
    asked = replace(request(system=system), purpose=purpose)
    assert wire_body(asked).get("system") == sent
    assert asked.key == request(system=system).key


@pytest.mark.parametrize("stream", [False, True])
def test_the_cache_is_written_once_and_read_from_then_on(api, stream):
    batches = [replace(request(f"Batch {n}", system=STABLE), purpose="synthesis") for n in range(3)]
    other = replace(request("Batch 0", system=f"{STABLE} Other."), purpose="judge")
    got = [reply.usage for reply, _ in claude(api, *batches, other, stream=stream)]
    tokens = len(STABLE) // 4
    assert [(u.cache_write_tokens, u.cache_read_tokens) for u in got] == [(tokens, 0), (0, tokens), (0, tokens), (tokens + 1, 0)]
    assert all(0 < u.input_tokens < 100 for u in got)
    api.reset()
    ((again, _),) = claude(api, batches[0], stream=stream)
    assert again.usage.cache_write_tokens == tokens


@pytest.mark.parametrize("facts", [{"purpose": "synthesis", "system": "Be short."}, {"purpose": "extract", "system": STABLE}])
def test_what_is_short_or_unmarked_is_not_cached(api, facts):
    for reply, _ in claude(api, *[replace(request(), **facts)] * 2):
        assert (reply.usage.cache_write_tokens, reply.usage.cache_read_tokens) == (0, 0)
        assert reply.usage.input_tokens > 0


def test_the_environment_changes_nothing(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-secret: from the environment")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "another-key-from-the-environment")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with MessagesApi() as api:
        ((reply, _),) = claude(api, request())
        ((_, _),) = chat(api, request())
    assert reply.stop_reason == "end_turn"
    assert "x-secret" not in api.requests[0].headers
    assert api.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert os.environ["ANTHROPIC_CUSTOM_HEADERS"] == "x-secret: from the environment"


@pytest.mark.parametrize("skew", [0, 86_400, -86_400])
def test_limits_come_from_headers_and_resets_by_the_servers_own_clock(skew):
    with MessagesApi(limits=RateLimits(60, 6000, 600), clock_offset=skew) as api:
        first, second = (limits for _, limits in claude(api, request(), request()))
        ((_, plain),) = chat(api, request())
    assert (first.requests_limit, first.input_tokens_limit, first.output_tokens_limit) == (60, 6000, 600)
    assert second.requests_remaining == 58
    assert 0 <= second.requests_reset_s <= 3
    assert (plain.requests_limit, plain.input_tokens_limit, plain.output_tokens_limit) == (60, 6000, None)
    assert 0 < plain.requests_reset_s <= 4


def test_past_the_limit_the_stand_in_answers_429_with_the_seconds_to_wait():
    with MessagesApi(limits=RateLimits(rpm=2)) as api:
        *_, error = claude(api, request(), request(), request())
    assert (error.reason, error.status) == ("rate_limited", 429)
    assert 25 <= error.retry_after <= 31


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Mon, 23 Nov 2026 10:00:30 GMT", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry-after": "Mon, 23 Nov 2026 10:00:30 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, 0.0),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("6m0s", 360.0), ("1.5s", 1.5), ("120ms", 0.12), ("1h2m", 3720.0), ("", None), ("now", None)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


WRONG = [
    ({"temperature": 1.0}, 400, "temperature"),
    ({"top_p": 0.9}, 400, "top_p"),
    ({"tool_choice": {"type": "any"}}, 400, "tool_choice"),
    ({"thinking": {"type": "disabled"}}, 400, "thinking"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{"}]}, 400, "prefill"),
    ({"tools": list(SEARCH), "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, 400, "citations"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}}}, 400, "additionalProperties"),
    ({"tools": [{**SEARCH[0], "allowed_domains": ["a.org"], "blocked_domains": ["b.org"]}]}, 400, "allowed_domains"),
    ({"model": "claude-2"}, 404, "claude-2"),
    ({"purpose": "x"}, 400, "purpose"),
    ({"system": 7}, 400, "system"),
    ({"system": ["a"]}, 400, "system.0"),
    ({"system": [{"type": "image"}]}, 400, "system.0"),
    ({"system": [{"type": "text", "text": ""}]}, 400, "non-empty"),
    ({"system": [{"type": "text", "text": "", "cache_control": {"type": "ephemeral"}}]}, 400, "cache_control"),
    ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "forever"}}]}, 400, "ephemeral"),
    ({"system": [{"type": "text", "text": "a", "note": "b"}]}, 400, "note"),
    ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}] * 5}, 400, "maximum of 4"),
]


@pytest.mark.parametrize(("change", "status", "words"), WRONG)
def test_the_stand_in_refuses_what_the_api_refuses(change, status, words):
    from fakes.messages_api import MODELS, check

    good = {"model": "claude-sonnet-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}
    assert check(good, MODELS) is None
    assert check({**good, "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}, MODELS) is None
    found = check({**good, **change}, MODELS)
    assert found[0] == status
    assert words in found[2]


def test_a_paused_turn_that_is_sent_back_is_answered_with_the_rest():
    pages = [("https://a.org", "A", "Rest is work."), ("https://b.org", "B", "Sleep first.")]

    def brain(body):
        return {"content": searched("rest", pages), "stop_reason": "end_turn"}

    with MessagesApi(brain, faults=[Fault("pause_turn")]) as api:
        ((first, _),) = claude(api, request(tools=SEARCH))
        assert first.stop_reason == "pause_turn"
        echo = {"role": "assistant", "content": list(first.content)}
        again = ModelRequest("test", "claude-sonnet-5-5", ({"role": "user", "content": "How do I rest?"}, echo), 500, tools=SEARCH)
        ((rest, _),) = claude(api, again)
    assert [*first.content, *rest.content] == searched("rest", pages)
    assert rest.stop_reason == "end_turn"


@pytest.mark.parametrize("stream", [False, True])
def test_searches_and_citations_arrive_as_they_were_sent(stream):
    pages = [("https://a.org/x?y=1", "Ä title", "Rest is work. " * 60)]

    def brain(body):
        thought = {"type": "thinking", "thinking": "Let me think.", "signature": "abc"}
        return {"content": [thought, *searched("rest", pages)], "usage": {"input_tokens": 7, "output_tokens": 5}}

    with MessagesApi(brain) as api:
        ((reply, _),) = claude(api, request(tools=SEARCH), stream=stream)
    assert list(reply.content) == brain(None)["content"]
    assert reply.usage == Usage(7, 5, web_searches=1)


@pytest.mark.parametrize("name", ["anthropic_web_search_tool", "anthropic_web_fetch_tool", "pause_turn_web_search_vcr"])
def test_recordings_arrive_through_the_sdk_as_they_were_recorded(shared, name):
    replay = Replay(shared / "recorded" / "anthropic" / f"{name}.yaml")
    lengths = [i["response"]["headers"]["content-length"][0] for i in replay.interactions]
    with MessagesApi(replay=replay) as api:
        got = claude(api, *(request(str(n)) for n in range(len(replay.bodies))))
        (over,) = claude(api, request())
    for (reply, limits), recorded, body, length in zip(got, replay.answers, replay.bodies, lengths, strict=True):
        assert list(reply.content) == recorded["content"]
        assert (reply.stop_reason, reply.model) == (recorded["stop_reason"], recorded["model"])
        assert reply.usage.input_tokens == recorded["usage"]["input_tokens"]
        tools = recorded["usage"].get("server_tool_use", {})
        assert (reply.usage.web_searches, reply.usage.web_fetches) == (
            tools.get("web_search_requests", 0),
            tools.get("web_fetch_requests", 0),
        )
        assert limits.requests_limit is None
        if name != "pause_turn_web_search_vcr":  # whoever recorded that one straightened its quotation marks afterwards
            assert len(body) == int(length)
    assert over.reason == "server_error"


def test_the_endpoint_that_knows_no_search_says_so():
    with MessagesApi() as api:
        (error,) = chat(api, request(tools=SEARCH))
        assert error.reason == "invalid_request"
        assert api.requests == []


def test_chat_sends_the_schema_and_needs_no_key():
    with MessagesApi() as api:
        ((reply, _),) = chat(api, request(schema=SCHEMA, system="Be short."))
        (error,) = chat(api, request(), key=None)
        (missing,) = chat(api, request(model="no-such-model"))
    assert json.loads(reply.text) == {"pairs": []}
    assert api.requests[0].body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert api.requests[0].body["messages"][0] == {"role": "system", "content": "Be short."}
    assert "authorization" not in api.requests[1].headers
    assert error.reason == "bad_key"
    assert missing.reason == "no_such_model"
    assert "no-such-model" in missing.message


def test_a_429_that_means_no_quota_is_not_retried(api):
    api.reset(Fault("quota_429"))
    (error,) = chat(api, request())
    assert (error.reason, error.fatal) == ("no_quota", True)


def test_the_key_is_cut_out_of_what_a_provider_says():
    assert said(f"key {KEY}\n is wrong " + "x" * 400, KEY).startswith("key (key) is wrong xxx")
    assert len(said("x" * 400, KEY)) == 300


OPEN = [
    ({}, {}, "ANTHROPIC_API_KEY"),
    ({}, {"anthropic": "   "}, "ANTHROPIC_API_KEY"),
    ({"provider": "openai"}, {}, "OPENAI_API_KEY"),
    ({}, {"anthropic": "sk with blanks"}, "ANTHROPIC_API_KEY"),
]


@pytest.mark.parametrize(("config", "keys", "word"), OPEN)
def test_without_a_key_the_sentence_says_what_to_do(config, keys, word):
    with pytest.raises(PipelineFailed) as raised:
        open_callers(PipelineConfig(**config), Controls(keys=Keys(**keys)))
    assert word in f"{raised.value.message} {raised.value.hint}"
    if not keys:
        assert "registry datasets import" in raised.value.hint


@pytest.mark.parametrize("address", ["localhost:1", "ftp://a.org", "http://", "http://user@a.org", "http://a.org:99999"])
def test_an_address_that_is_none(address):
    with pytest.raises(PipelineFailed, match="Expected an address"):
        open_callers(PipelineConfig(), Controls(keys=Keys(anthropic=KEY), endpoints=Endpoints(anthropic=address)))


def test_who_searches_and_who_writes():
    keys, local = Keys(anthropic=KEY), Endpoints(openai="http://127.0.0.1:9/v1")
    one = open_callers(PipelineConfig(), Controls(keys=keys))
    assert one.research is one.writer
    assert one.generator == "claude-sonnet-5-5 (Anthropic)"
    two = open_callers(PipelineConfig(provider="openai", model="qwen"), Controls(keys=keys, endpoints=local))
    assert (type(two.research).__name__, two.generator) == ("AnthropicCaller", "qwen (OpenAI-compatible endpoint)")
    three = open_callers(PipelineConfig(provider="openai"), Controls(endpoints=local))
    assert three.research is None

    async def close():
        for callers in (one, two, three):
            await callers.close()

    asyncio.run(close())


def test_requests_with_tools_go_to_the_one_that_searches():
    with MessagesApi() as api:

        async def main():
            callers = Callers(AnthropicCaller(KEY, api.url), OpenAICaller(KEY, api.url + "/v1"))
            await callers.send(request(tools=SEARCH))
            await callers.send(request())
            await callers.close()

        asyncio.run(main())
    assert ["tools" in seen.body for seen in api.requests] == [True, False]


def test_as_an_own_process_it_prints_its_address_and_logs_each_request(tmp_path):
    log = tmp_path / "calls.jsonl"
    command = [sys.executable, "tests/fakes/messages_api.py", "--log", str(log), "--brain", "fakes.messages_api:answer"]
    with subprocess.Popen([*command, "--faults", '[{"kind": "overloaded"}]'], cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            error, (reply, _) = send(AnthropicCaller(KEY, url), request(), request())
        finally:
            process.kill()
    assert (error.reason, reply.stop_reason) == ("overloaded", "end_turn")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["event"], line.get("status")) for line in lines] == [
        ("arrival", None),
        ("answer", 529),
        ("arrival", None),
        ("answer", 200),
    ]
    assert len({line["key"] for line in lines}) == 1
