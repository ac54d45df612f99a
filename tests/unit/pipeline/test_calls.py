"""Calls: one payment per request, one retry layer, a budget that holds, and what a fatal error stops. In virtual time, with a scripted provider."""

import asyncio
import datetime as dt
import itertools
import random
import sqlite3

import pytest
from fakes.messages_api import Fault, MessagesApi
from fakes.virtual_time import run

from pipeline.calls import Calls
from pipeline.governor import Governor, Pools
from pipeline.ports import CallFailed, FetchRequest, Limits, ModelReply, ModelRequest, Usage
from pipeline.prices import Prices, cost
from pipeline.values import PipelineFailed
from registry.errors import Invalid

MODEL = "claude-sonnet-5-5"
NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


class DictStore:
    """A RunStore in memory; `slow` seconds per commit, `broken` raises instead."""

    def __init__(self, slow=0.0, broken=None):
        self.kept, self.slow, self.broken = {}, slow, broken

    async def recorded(self, key):
        return self.kept.get(key)

    async def record(self, call):
        if self.broken:
            raise self.broken
        await asyncio.sleep(self.slow)
        self.kept.setdefault(call.key, call)


class Scripted:
    """A ModelCaller that takes 10 s and fails as told: `script` maps a question to the failures before its answer."""

    generator = "nobody"

    def __init__(self, script=None, usage=None, seconds=10.0):
        self.script, self.usage, self.seconds = {k: list(v) for k, v in (script or {}).items()}, usage or Usage(100, 50), seconds
        self.sent, self.at, self.active, self.peak = [], [], 0, 0

    async def send(self, request):
        question = request.messages[0]["content"]
        self.sent.append(question)
        self.at.append(asyncio.get_running_loop().time())
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.active -= 1
        failures = self.script.get(question) or self.script.get("*")
        if failures:
            raise failures.pop(0)
        reply = ModelReply(f"re: {question}", ({"type": "text", "text": f"re: {question}"},), "end_turn", self.usage, request.model)
        return reply, Limits()

    async def close(self):
        pass


def question(text="a", *, purpose="synthesis", max_tokens=1000, **facts):
    return ModelRequest(purpose, facts.pop("model", MODEL), ({"role": "user", "content": text},), max_tokens, **facts)


def failed(reason, **facts):
    return CallFailed(reason, f"It failed: {reason}.", **facts)


def calls(loop, caller, store=None, *, concurrency=20, governor=None, **facts):
    governor = governor or Governor(concurrency, clock=loop.time)
    facts = {
        "clock": loop.time,
        "rng": random.Random(1),  # noqa: S311 - jitter
        "now": lambda: NOON,
        **facts,
    }
    return Calls(caller, store or DictStore(), governor, Prices.read(), **facts)


def test_an_answer_is_paid_once_and_then_replayed():
    async def main(loop):
        store, caller = DictStore(), Scripted()
        first = await calls(loop, caller, store).ask(question())
        again = calls(loop, caller, store)
        second = await again.ask(question())
        return first, second, caller.sent, again.spent, loop.time()

    first, second, sent, spent, seconds = run(main)
    assert sent == ["a"]
    assert (first.replayed, second.replayed) == (False, True)
    assert (second.reply, second.key, second.received_at, second.cost) == (first.reply, first.key, first.received_at, first.cost)
    assert first.received_at == "2026-11-23T12:00:00.000+00:00"
    assert (spent.cost, spent.calls, spent.replayed, spent.usage) == (0.0, 0, 1, Usage())
    assert seconds == 10.0


def test_what_was_spent_is_counted_by_purpose():
    async def main(loop):
        counted = calls(loop, Scripted({"b": [failed("timeout")]}, Usage(1_000_000, 100_000, web_searches=2)))
        await asyncio.gather(counted.ask(question("a", purpose="web_1")), counted.ask(question("b")))
        return counted.spent

    spent = run(main)
    assert spent.cost == pytest.approx(2 * (2 + 1 + 0.02))
    assert (spent.calls, spent.usage.input_tokens) == (2, 2_000_000)
    assert {name: (t.calls, t.attempts, t.failed) for name, t in spent.by_purpose.items()} == {"web_1": (1, 1, 0), "synthesis": (1, 2, 0)}


def test_twins_share_one_call_and_a_deliberate_second_asking_does_not():
    async def main(loop):
        caller = Scripted()
        asked = calls(loop, caller)
        got = await asyncio.gather(*(asked.ask(question()) for _ in range(5)), asked.ask(question(attempt=1)))
        return len(caller.sent), {answer.reply.text for answer in got}, asked.spent.calls

    assert run(main) == (2, {"re: a"}, 2)


def test_a_failure_is_shared_by_twins_and_not_remembered():
    async def main(loop):
        caller = Scripted({"a": [failed("invalid_request")]})
        asked = calls(loop, caller)
        got = await asyncio.gather(*(asked.ask(question()) for _ in range(2)), return_exceptions=True)
        later = await asked.ask(question())
        return [error.reason for error in got], later.replayed, len(caller.sent)

    assert run(main) == (["invalid_request", "invalid_request"], False, 2)


RETRIES = [
    ("rate_limited", 5),
    ("overloaded", 5),
    ("server_error", 5),
    ("connection", 5),
    ("timeout", 5),
    ("not_json", 5),
    ("invalid_request", 1),
    ("too_large", 1),
    ("bad_key", 1),
    ("no_such_model", 1),
]


@pytest.mark.parametrize(("reason", "attempts"), RETRIES)
def test_what_may_pass_is_tried_again_and_nothing_else(reason, attempts):
    async def main(loop):
        caller = Scripted({"*": [failed(reason) for _ in range(9)]}, seconds=0)
        with pytest.raises(CallFailed) as raised:
            await calls(loop, caller).ask(question())
        return raised.value, caller.at

    error, at = run(main)
    assert (error.reason, len(at)) == (reason, attempts)
    assert ("Tried 5 times." in error.message) == (attempts == 5)
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert all(wait <= 2 * 2**n for n, wait in enumerate(waits))
    assert attempts == 1 or sum(waits) > 0


def test_a_retry_after_wins_and_holds_everybody():
    async def main(loop):
        caller, seen = Scripted({"a": [failed("rate_limited", retry_after=90.0)]}, seconds=1), []
        asked = calls(loop, caller, watch=seen.append)
        first = asyncio.ensure_future(asked.ask(question("a")))
        await asyncio.sleep(2)
        await asyncio.gather(first, asked.ask(question("b")))
        return caller.sent, caller.at, [(p.agent, p.state, p.message) for p in seen]

    sent, at, seen = run(main)
    assert sorted(sent) == ["a", "a", "b"]
    assert at == [0.0, 91.0, 91.0]
    assert seen == [("synthesis", "waiting", "try 2 of 5 in 90.0 s: It failed: rate_limited.")]


def test_a_server_that_wants_hours_is_not_waited_for():
    async def main(loop):
        with pytest.raises(CallFailed, match="asks to wait 7200 s") as raised:
            await calls(loop, Scripted({"a": [failed("rate_limited", retry_after=7200.0)]})).ask(question())
        return raised.value.reason, loop.time()

    assert run(main) == ("rate_limited", 10.0)


def test_nobody_holds_a_slot_while_waiting_to_try_again():
    async def main(loop):
        caller = Scripted({"a": [failed("server_error") for _ in range(4)]}, seconds=1)
        asked = calls(loop, caller, concurrency=1)
        await asyncio.gather(asked.ask(question("a")), *(asked.ask(question(f"{n}")) for n in range(5)))
        return caller.peak, caller.sent

    peak, sent = run(main)
    assert peak == 1
    assert sent[:2] == ["a", "0"]
    assert sent.count("a") == 5


def test_the_first_fatal_error_stops_every_later_call_but_not_what_is_kept():
    async def main(loop):
        store = DictStore()
        await calls(loop, Scripted(), store).ask(question("kept"))
        caller = Scripted({"a": [failed("no_quota", status=402)]})
        asked = calls(loop, caller, store, concurrency=1)
        got = await asyncio.gather(*(asked.ask(question(text)) for text in "abcd"), return_exceptions=True)
        kept = await asked.ask(question("kept"))
        return [(error.reason, error.status, error.message) for error in got], caller.sent, kept.replayed

    assert run(main) == ([("no_quota", 402, "It failed: no_quota.")] * 4, ["a"], True)


# One call of 100,000 output tokens at most costs $1 and a little; the answers use a quarter of that.
def test_the_budget_is_never_passed_and_calls_that_fit_later_wait():
    async def main(loop):
        caller = Scripted(usage=Usage(0, 25_000))
        asked = calls(loop, caller, max_cost=2.2, models=[MODEL])
        got = await asyncio.gather(*(asked.ask(question(str(n), max_tokens=100_000)) for n in range(9)), return_exceptions=True)
        answered = [a for a in got if not isinstance(a, CallFailed)]
        return len(answered), {e.reason for e in got if isinstance(e, CallFailed)}, asked.spent.cost, caller.peak, len(caller.sent)

    answered, reasons, paid, peak, sent = run(main)
    # Two fit beside each other; a third waits for them. Past $1.2 no further one can be sure to fit.
    assert (answered, reasons, peak, sent) == (5, {"budget"}, 2, 5)
    assert paid == pytest.approx(1.25)


def test_the_worst_case_stays_below_the_budget():
    async def main(loop):
        asked = calls(loop, Scripted(usage=Usage(0, 100_000)), max_cost=3.3, spent_before=1.0)
        await asyncio.gather(*(asked.ask(question(str(n), max_tokens=100_000)) for n in range(9)), return_exceptions=True)
        return asked.spent.cost

    assert run(main) == pytest.approx(2.0)


def test_a_budget_needs_every_price():
    async def main(loop):
        with pytest.raises(PipelineFailed, match="qwen"):
            calls(loop, Scripted(), max_cost=1.0, models=[MODEL, "qwen"])
        with pytest.raises(CallFailed, match="qwen") as raised:
            await calls(loop, Scripted(), max_cost=1.0).ask(question(model="qwen"))
        free = calls(loop, Scripted(), models=["qwen"])
        answer = await free.ask(question(model="qwen"))
        return raised.value.reason, answer.cost, free.spent.cost

    assert run(main) == ("budget", None, None)


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left on device")])
def test_a_full_disk_stops_the_run_before_more_is_paid(error):
    async def main(loop):
        caller = Scripted()
        asked = calls(loop, caller, DictStore(broken=error), concurrency=1)
        got = await asyncio.gather(*(asked.ask(question(text)) for text in "abc"), return_exceptions=True)
        with pytest.raises(CallFailed) as raised:
            await asked.fetch(FetchRequest("papers", "arxiv", "https://a.org/x"), None)
        return {e.reason for e in got}, caller.sent, raised.value.reason, got[0].message

    reasons, sent, fetched, words = run(main)
    assert (reasons, fetched) == ({"disk"}, "disk")
    assert sent == ["a"]
    assert "--resume" in words


@pytest.mark.parametrize(("after", "kept"), [(5.0, 0), (11.0, 1)])
def test_a_call_that_is_cancelled_during_its_commit_is_kept_and_one_on_the_wire_is_not(after, kept):
    async def main(loop):
        store, caller = DictStore(slow=4.0), Scripted()
        asked = calls(loop, caller, store)
        task = asyncio.ensure_future(asked.ask(question()))
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert caller.active == 0
        await asked.drain()
        return len(store.kept)

    assert run(main) == kept


def test_a_twin_that_goes_away_leaves_the_other_its_answer():
    async def main(loop):
        caller = Scripted()
        asked = calls(loop, caller)
        one, two = (asyncio.ensure_future(asked.ask(question())) for _ in range(2))
        await asyncio.sleep(1)
        one.cancel()
        answer = await two
        return answer.reply.text, caller.sent, one.cancelled()

    assert run(main) == ("re: a", ["a"], True)


def test_a_call_whose_last_waiter_went_away_can_be_asked_anew_and_gives_its_slot_back():
    async def main(loop):
        caller = Scripted()
        asked = calls(loop, caller, concurrency=1, max_cost=5.0)
        task = asyncio.ensure_future(asked.ask(question()))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait({task})
        answer = await asked.ask(question())
        return answer.reply.text, caller.sent, asked._reserved

    assert run(main) == ("re: a", ["a", "a"], 0.0)


def test_refusals_and_cut_answers_are_kept_like_any_answer():
    class Refusing(Scripted):
        async def send(self, request):
            return ModelReply("", (), "refusal", Usage(5, 0), request.model, stop_details={"category": "frontier_llm"}), Limits()

    async def main(loop):
        store = DictStore()
        await calls(loop, Refusing(), store).ask(question())
        return (await calls(loop, Scripted(), store).ask(question())).reply

    reply = run(main)
    assert (reply.stop_reason, reply.stop_details, reply.content) == ("refusal", {"category": "frontier_llm"}, ())


def test_each_model_has_its_own_line():
    async def main(loop):
        caller = Scripted()
        asked = calls(loop, caller, governor=Pools(lambda: Governor(1, clock=loop.time)))
        await asyncio.gather(asked.ask(question("a")), asked.ask(question("b")), asked.ask(question("c", model="other")))
        return dict(zip(caller.sent, caller.at, strict=True))

    assert run(main) == {"a": 0.0, "c": 0.0, "b": 10.0}


# Services


def _get(loop, log, failures=(), seconds=0.5):
    left = list(failures)

    async def get(request):
        log.append(loop.time())
        await asyncio.sleep(seconds)
        if left:
            raise left.pop(0)
        return {"for": dict(request.params)["q"]}

    return get


def page(service, q="a"):
    return FetchRequest("papers", service, f"https://{service}.org/search", (("q", q),))


@pytest.mark.parametrize(
    ("service", "at"), [("semantic_scholar", [0.0, 1.0, 2.0]), ("arxiv", [0.0, 3.0, 6.0]), ("unknown", [0.0, 0.0, 0.0])]
)
def test_services_are_asked_at_their_own_pace(service, at):
    async def main(loop):
        asked, log = calls(loop, Scripted()), []
        got = await asyncio.gather(*(asked.fetch(page(service, q), _get(loop, log)) for q in "abc"))
        return log, [fetched.body for fetched in got]

    assert run(main) == (at, [{"for": q} for q in "abc"])


def test_arxiv_gets_one_connection_and_a_pace_shortens_the_waits():
    async def main(loop):
        asked, log = calls(loop, Scripted(), pace=0.1), []
        await asyncio.gather(*(asked.fetch(page("arxiv", q), _get(loop, log, seconds=5)) for q in "ab"))
        return log

    assert run(main) == [0.0, 5.0]


def test_a_fetch_is_remembered_retried_and_its_key_error_stops_its_service_only():
    async def main(loop):
        store, log = DictStore(), []
        asked = calls(loop, Scripted(), store)
        first = await asked.fetch(page("semantic_scholar"), _get(loop, log, [failed("rate_limited", retry_after=20.0)]))
        again = await calls(loop, Scripted(), store).fetch(page("semantic_scholar"), None)
        with pytest.raises(CallFailed):
            await asked.fetch(page("semantic_scholar", "b"), _get(loop, log, [failed("bad_key")]))
        with pytest.raises(CallFailed) as raised:
            await asked.fetch(page("semantic_scholar", "c"), None)
        other = await asked.fetch(page("openalex"), _get(loop, log))
        answer = await asked.ask(question())
        return first.body, again, log[:2], raised.value.reason, other.replayed, answer.replayed

    first, again, at, reason, *fresh = run(main)
    assert (first, again.body, again.replayed) == ({"for": "a"}, {"for": "a"}, True)
    assert at == [0.0, 20.5]
    assert (reason, fresh) == ("bad_key", [False, False])


# Prices


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        (MODEL, Usage(1_000_000, 0), 2.0),
        (MODEL, Usage(0, 1_000_000), 10.0),
        (MODEL, Usage(cache_read_tokens=1_000_000), 0.1),
        (MODEL, Usage(web_searches=1000), 10.0),
        ("claude-haiku-5-5", Usage(100_000, 0), 0.01),
        ("claude-haiku-5-5", Usage(200_000, 0), 0.1),
        ("claude-opus-5-5", Usage(cache_read_tokens=1_000_000), 4.0),
        ("gpt-none", Usage(1, 1), None),
    ],
)
def test_prices(model, usage, dollars):
    assert cost(model, usage) == (None if dollars is None else pytest.approx(dollars))


def test_an_own_table_of_prices_and_one_that_is_none(tmp_path):
    own = tmp_path / "prices.json"
    own.write_text(
        '{"dated": "2027-01-01", "source": "me", "web_search_per_1000": 0, "per_tokens": 1000000, "models": {"qwen": {"input": 1, "output": 2}}}'
    )
    assert cost("qwen", Usage(1_000_000, 1_000_000), own) == 3.0
    for text in (
        "",
        "[]",
        '{"models": {}}',
        own.read_text().replace('"input": 1', '"input": -1'),
        own.read_text().replace('"output": 2', '"x": 2'),
    ):
        own.write_text(text)
        with pytest.raises(Invalid, match="Expected a table of prices"):
            Prices.read(own)
    with pytest.raises(Invalid):
        Prices.read(tmp_path / "missing.json")


# The whole way, through the real SDK


def test_sixty_calls_through_the_sdk_with_faults_are_each_answered_and_committed_once():
    from pipeline.callers.anthropic import AnthropicCaller

    kinds = ("overloaded", "drop", "html_200", "broken_body", "rate_limited")
    faults = [Fault(kind, when=f'text:"n{number}0"', times=1) for number, kind in enumerate(kinds, 1)]
    with MessagesApi(faults=faults) as api:

        async def main():
            store, caller = DictStore(), AnthropicCaller("sk-test-0123456789", api.url, 10.0)
            asked = Calls(caller, store, Governor(20), Prices.read(), sleep=lambda _: asyncio.sleep(0), max_cost=50.0)
            got = await asyncio.gather(*(asked.ask(question(f"n{n}")) for n in range(60)))
            await caller.close()
            return got, store.kept

        got, kept = asyncio.run(main())
        assert len(got) == len(kept) == 60
        assert len(api.requests) == 65
        assert len(set(api.keys)) == 60
        assert api.peak <= 20
