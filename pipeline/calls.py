"""Every call to a model or a service goes through here: remembered, counted, paced, retried, once for all providers.

Rules:
- The store is asked first; an answer that was committed is never paid again. The same request asked twice at one time is one call.
- Order of a new call: what earlier fatal errors say, the budget, a slot of the governor, one attempt, then the commit, at once and safe from cancellation.
- One retry layer: up to `max_attempts`, full jitter, at most a minute; a retry-after of the server wins and makes everybody wait. Nobody holds a slot
  while waiting.
- The budget is never passed: each call reserves the most it can cost. One that would fit once others have ended waits for them; one that cannot fit any more
  stops the run.
- After a fatal error (bad key, no quota, full disk, budget) every later call fails with the same words without being sent; committed answers are still given.
- Refusals and cut answers are answers: they are committed, and their stop_reason tells.

It does not know what an attempt cost that brought no answer (a provider may bill a line that broke), and counts it as nothing.
"""

import asyncio
import contextlib
import datetime as dt
import json
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from pipeline.governor import Governor, Pools, Sleep, Slot
from pipeline.ports import CallFailed, FetchRequest, ModelCaller, ModelReply, ModelRequest, Progress, Recorded, RunStore, Usage, Watcher
from pipeline.prices import Prices
from pipeline.values import PipelineFailed

MAX_PAUSE = 60.0  # seconds; the longest wait of our own choosing
FIRST_PAUSE = 2.0  # seconds; the first retry waits up to this, each later one up to twice as long
MAX_RETRY_AFTER = 300.0  # seconds; a server that asks for longer is not waited for
FIRST_OUTPUT = 2000  # tokens that a first answer is expected to have: a batch of five pairs
# Tokens of search results that the first search of a call may bring; each next one is read with all before it (recorded: 401,468 for ten).
TOKENS_PER_SEARCH = 12_000
# Seconds between requests: Semantic Scholar gives keys 1 request a second, arXiv asks for 3 s and one connection, Reddit allows 100 a minute.
SPACING = {"semantic_scholar": 1.0, "arxiv": 3.0, "openalex": 0.1, "reddit": 0.6}
ONE_AT_A_TIME = frozenset({"arxiv"})
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """A reply with what the ledger knows of it; `cost` in US dollars or unknown; `replayed` answers cost nothing now."""

    reply: ModelReply
    key: str
    received_at: str
    cost: float | None
    replayed: bool


@dataclass(frozen=True)
class Fetched:
    """What a service answered."""

    body: dict[str, Any]
    key: str
    received_at: str
    replayed: bool


@dataclass(frozen=True)
class Tally:
    """The calls of one purpose. `attempts` counts HTTP requests, `failed` calls without an answer, `seconds` the answered ones' time on the wire."""

    calls: int = 0
    replayed: int = 0
    failed: int = 0
    attempts: int = 0
    seconds: float = 0.0
    cost: float | None = 0.0
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Spent:
    """What this process paid for; `cost` is None when a price was unknown. `calls` were answered and paid, `replayed` came from the store."""

    cost: float | None
    calls: int
    replayed: int
    usage: Usage
    by_purpose: dict[str, Tally]


@dataclass
class _Running:
    """A call under way, and how many wait for it."""

    task: asyncio.Task[Recorded]
    waiting: int = 0


@dataclass
class _Service:
    """A service's place in time: nobody before `free_at`."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    one: asyncio.Lock = field(default_factory=asyncio.Lock)
    free_at: float = float("-inf")


def _utc() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Calls:
    """See the module's rules. `spent_before` are dollars that count against `max_cost`, too (a resumed run's); `pace` scales the services' spacing.

    Raises PipelineFailed where `max_cost` is given and the price of one of `models` is unknown.
    """

    def __init__(
        self,
        caller: ModelCaller,
        store: RunStore,
        governor: Governor | Pools,
        prices: Prices,
        *,
        models: Sequence[str] = (),
        max_cost: float | None = None,
        spent_before: float = 0.0,
        max_attempts: int = 5,
        watch: Watcher | None = None,
        spacing: Mapping[str, float] | None = None,
        pace: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
        now: Callable[[], dt.datetime] = _utc,
    ) -> None:
        unknown = sorted({model for model in models if not prices.knows(model)})
        if max_cost is not None and unknown:
            raise PipelineFailed(
                f"--max-cost needs the price of every model; the table of {prices.dated} has none for {', '.join(unknown)}.",
                "Leave --max-cost out, or give an own table of prices.",
            )
        self._caller, self._store, self._governor, self._prices = caller, store, governor, prices
        self._max_cost, self._before, self._max_attempts, self._watch = max_cost, spent_before, max(1, max_attempts), watch
        self._spacing, self._clock, self._sleep = {name: s * pace for name, s in {**SPACING, **(spacing or {})}.items()}, clock, sleep
        self._rng, self._now = rng or random.Random(), now  # noqa: S311 - jitter, not a secret
        self._running: dict[str, _Running] = {}
        self._services: dict[str, _Service] = {}
        self._fatal: dict[str, CallFailed] = {}  # by service; "" is everything
        self._tallies: dict[str, Tally] = {}
        self._reserved = 0.0
        self._settled = asyncio.Event()
        self._committed: set[str] = set()
        self._usual: dict[str, Usage] = {}  # what a call of each purpose used of late

    @property
    def spent(self) -> Spent:
        """What was paid so far."""
        tallies = self._tallies.values()
        usage = Usage()
        for tally in tallies:
            usage = _add(usage, tally.usage)
        costs = [tally.cost for tally in tallies]
        total = None if any(cost is None for cost in costs) else sum(cost for cost in costs if cost is not None)
        return Spent(total, sum(t.calls for t in tallies), sum(t.replayed for t in tallies), usage, dict(self._tallies))

    async def ask(self, request: ModelRequest) -> Answer:
        """The model's answer, from the store or the provider. Raises CallFailed."""
        recorded, replayed = await self._once(request.key, request.purpose, lambda: self._new_ask(request))
        return Answer(_reply(recorded.answer), recorded.key, recorded.received_at, recorded.cost, replayed)

    async def fetch(self, request: FetchRequest, get: Callable[[FetchRequest], Awaitable[dict[str, Any]]]) -> Fetched:
        """A service's answer, from the store or by `get` (one HTTP attempt that raises CallFailed). Raises CallFailed."""
        recorded, replayed = await self._once(request.key, request.purpose, lambda: self._new_fetch(request, get))
        return Fetched(recorded.answer, recorded.key, recorded.received_at, replayed)

    async def drain(self) -> None:
        """Wait for every call under way; before the store is closed."""
        tasks = [running.task for running in self._running.values()]
        if tasks:
            await asyncio.wait(tasks)

    # Once per key

    async def _once(self, key: str, purpose: str, make: Callable[[], Coroutine[Any, Any, Recorded]]) -> tuple[Recorded, bool]:
        """The record of a key, and whether it came from the store: one call however many ask."""
        running = self._running.get(key)
        if running is None:
            recorded = await self._recall(key)
            if recorded is not None:
                self._count(purpose, replayed=1)
                return recorded, True
            running = self._running.get(key)
            if running is None and key in self._committed:  # committed while the store was being read
                return await self._once(key, purpose, make)
        if running is None:
            running = self._running[key] = _Running(asyncio.ensure_future(make()))
            running.task.add_done_callback(lambda task: self._ended(key, task))
        running.waiting += 1
        try:
            return await asyncio.shield(running.task), False
        except asyncio.CancelledError:
            if running.waiting == 1 and not running.task.done():
                self._running.pop(key, None)  # whoever asks now starts anew
                running.task.cancel()
                await asyncio.wait({running.task})  # it ends by itself, after its commit
            raise
        finally:
            running.waiting -= 1

    def _ended(self, key: str, task: asyncio.Task[Recorded]) -> None:
        if (running := self._running.get(key)) is not None and running.task is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # seen, even where nobody waits any more

    async def _recall(self, key: str) -> Recorded | None:
        try:
            return await self._store.recorded(key)
        except Exception as error:  # noqa: BLE001 - whatever the store runs on: without it nothing can be remembered
            raise self._latch("", _disk(error)) from None

    async def _commit(self, recorded: Recorded) -> None:
        try:
            await _to_the_end(self._store.record(recorded))
        except Exception as error:  # noqa: BLE001 - see _recall
            raise self._latch("", _disk(error)) from None
        self._committed.add(recorded.key)

    # Models

    async def _new_ask(self, request: ModelRequest) -> Recorded:
        most = self._most(request)
        try:
            await self._reserve(request, most)
        except CallFailed as error:
            self._count(request.purpose, failed=1)
            raise self._latch("", error) from None
        try:
            return await self._tried(request.purpose, "", lambda attempt: self._attempt(request, attempt))
        finally:
            self._release(most)

    async def _attempt(self, request: ModelRequest, attempt: int) -> Recorded:
        governor = self._governor.of(request.model) if isinstance(self._governor, Pools) else self._governor
        size, output = self._likely(request)
        async with governor.slot(input_tokens=size, output_tokens=output) as slot:
            self._check_fatal("", admitted=True)
            recorded = await self._send(request, governor, slot)
            # Inside the slot: on a full disk nobody else is sent meanwhile.
            return await self._remember(request, replace(recorded, attempts=attempt))

    async def _send(self, request: ModelRequest, governor: Governor, slot: Slot) -> Recorded:
        began = self._clock()
        self._count(request.purpose, attempts=1)
        try:
            reply, limits = await self._caller.send(request)
        except CallFailed as error:
            if error.reason in {"rate_limited", "overloaded"}:
                governor.refused(slot)
                slot.settle(Usage())  # what is refused uses no tokens
            if error.retry_after and error.retryable and error.retry_after <= MAX_RETRY_AFTER:
                governor.pause(error.retry_after)
            raise
        slot.settle(reply.usage)
        governor.succeeded()
        governor.learn(limits)
        cost = self._prices.cost(request.model, reply.usage)
        return Recorded(request.key, request.purpose, asdict(reply), _iso(self._now()), reply.usage, cost, seconds=self._clock() - began)

    async def _remember(self, request: ModelRequest, recorded: Recorded) -> Recorded:
        used, old = recorded.usage, self._usual.get(request.purpose, recorded.usage)
        self._usual[request.purpose] = Usage(
            round(0.8 * old.input_tokens + 0.2 * used.input_tokens), round(0.8 * old.output_tokens + 0.2 * used.output_tokens)
        )
        self._count(request.purpose, calls=1, seconds=recorded.seconds, usage=recorded.usage, cost=recorded.cost)
        await self._commit(recorded)
        return recorded

    # Services

    async def _new_fetch(self, request: FetchRequest, get: Callable[[FetchRequest], Awaitable[dict[str, Any]]]) -> Recorded:
        service = self._services.setdefault(request.service, _Service())

        async def attempt(number: int) -> Recorded:
            one = service.one if request.service in ONE_AT_A_TIME else contextlib.nullcontext()
            async with one:
                await self._turn(request.service, service)
                self._check_fatal(request.service)
                began = self._clock()
                self._count(request.purpose, attempts=1)
                try:
                    body = await get(request)
                except CallFailed as error:
                    if error.retryable and error.retry_after and error.retry_after <= MAX_RETRY_AFTER:
                        service.free_at = max(service.free_at, self._clock() + error.retry_after)
                    raise
            seconds = self._clock() - began
            recorded = Recorded(request.key, request.purpose, body, _iso(self._now()), attempts=number, seconds=seconds, cost=0.0)
            self._count(request.purpose, calls=1, seconds=seconds, cost=0.0)
            await self._commit(recorded)
            return recorded

        return await self._tried(request.purpose, request.service, attempt)

    async def _turn(self, name: str, service: _Service) -> None:
        """Wait until the service may be asked again."""
        async with service.lock:
            while (wait := service.free_at - self._clock()) > 0:
                await self._sleep(wait)
            service.free_at = self._clock() + self._spacing.get(name, 0.0)

    # Retries and fatal errors

    async def _tried(self, purpose: str, service: str, attempt: Callable[[int], Awaitable[Recorded]]) -> Recorded:
        for number in range(1, self._max_attempts + 1):
            self._check_fatal(service, admitted=True)
            try:
                return await attempt(number)
            except CallFailed as error:
                wait = self._pause(error, number)
                if wait is None:
                    self._count(purpose, failed=1)
                    raise self._given_up(error, number, service) from None
                self._tell(purpose, f"try {number + 1} of {self._max_attempts} in {wait:.1f} s: {error.message}")
            await self._sleep(wait)
        raise AssertionError  # the last attempt returns or raises

    def _pause(self, error: CallFailed, number: int) -> float | None:
        """Seconds before the next attempt, or None to give up."""
        if not error.retryable or number >= self._max_attempts:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= MAX_RETRY_AFTER else None
        return self._rng.uniform(0.0, min(MAX_PAUSE, FIRST_PAUSE * 2 ** (number - 1)))

    def _given_up(self, error: CallFailed, number: int, service: str) -> CallFailed:
        if error.reason == "budget":
            return error  # another call may be cheaper and still fit
        if error.fatal:
            return self._latch(service, error)
        words = error.message
        if error.retryable and error.retry_after is not None and error.retry_after > MAX_RETRY_AFTER:
            words = f"{words} It asks to wait {error.retry_after:.0f} s, which is longer than this run waits; go on later with --resume."
        elif number > 1:
            words = f"{words} Tried {number} times."
        return CallFailed(error.reason, words, status=error.status, retry_after=error.retry_after)

    def _latch(self, service: str, error: CallFailed) -> CallFailed:
        """Remember a fatal error: nothing of this service is sent any more. A full disk stops every service."""
        scope = "" if error.reason == "disk" else service
        self._fatal.setdefault(scope, error)
        return error

    def _check_fatal(self, service: str, *, admitted: bool = False) -> None:
        """Raise the first fatal error; a call that was `admitted` has its share of the budget and goes on when only that ran out."""
        first, everything = self._fatal.get(service), self._fatal.get("")
        if first is None and everything is not None and everything.reason == "disk":
            first = everything
        if first is not None and not (admitted and first.reason == "budget"):
            raise CallFailed(first.reason, first.message, status=first.status)

    # The budget

    def _most(self, request: ModelRequest) -> float:
        """The most that one call can cost, in US dollars: all of max_tokens, every search allowed."""
        searches = _searches(request)
        size = (
            _size(request) // 3 + TOKENS_PER_SEARCH * searches * (searches + 1) // 2
        )  # 3 characters a token: on the safe side of the usual 4
        return self._prices.cost(request.model, Usage(size, request.max_tokens, web_searches=searches)) or 0.0

    def _likely(self, request: ModelRequest) -> tuple[int, int]:
        """Input and output tokens that a call will likely use, for the governor: as the last ones of its purpose did."""
        usual = self._usual.get(request.purpose)
        size = _size(request) // 4 + TOKENS_PER_SEARCH * _searches(request)
        if usual is None:
            return size, min(request.max_tokens, FIRST_OUTPUT)
        return (usual.input_tokens if request.tools else size), min(request.max_tokens, usual.output_tokens)

    async def _reserve(self, request: ModelRequest, most: float) -> None:
        self._check_fatal("")
        if self._max_cost is None:
            return
        if not self._prices.knows(request.model):
            raise CallFailed("budget", f"--max-cost needs the price of {request.model[:80]!a}; the table of {self._prices.dated} has none.")
        while True:
            self._check_fatal("")
            paid = self._before + (self.spent.cost or 0.0)
            if paid + most > self._max_cost:
                raise CallFailed(
                    "budget",
                    f"The next call ({request.purpose}) may cost ${most:.4f}, with ${paid:.4f} of ${self._max_cost:.2f} spent. "
                    "What there is was kept; raise --max-cost and go on with --resume.",
                )
            if paid + self._reserved + most <= self._max_cost:
                self._reserved += most
                return
            self._settled.clear()
            await self._settled.wait()

    def _release(self, most: float) -> None:
        if self._max_cost is not None:
            self._reserved -= most
            self._settled.set()

    # Counting and telling

    def _count(
        self,
        purpose: str,
        *,
        calls: int = 0,
        replayed: int = 0,
        failed: int = 0,
        attempts: int = 0,
        seconds: float = 0.0,
        usage: Usage | None = None,
        cost: float | None = 0.0,
    ) -> None:
        old = self._tallies.get(purpose, Tally())
        self._tallies[purpose] = Tally(
            calls=old.calls + calls,
            replayed=old.replayed + replayed,
            failed=old.failed + failed,
            attempts=old.attempts + attempts,
            seconds=old.seconds + seconds,
            cost=None if old.cost is None or cost is None else old.cost + cost,
            usage=_add(old.usage, usage or Usage()),
        )

    def _tell(self, purpose: str, words: str) -> None:
        if self._watch is not None:
            self._watch(Progress(purpose, "waiting", words))


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await the work; a cancellation waits until it is done."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        raise


def _searches(request: ModelRequest) -> int:
    return sum(int(tool.get("max_uses") or 1) for tool in request.tools)


def _size(request: ModelRequest) -> int:
    """Characters of a request."""
    return len(json.dumps([request.system, request.messages, request.tools, request.schema], ensure_ascii=False, default=str))


def _disk(error: Exception) -> CallFailed:
    words = " ".join(str(error).split())[:200]
    return CallFailed(
        "disk",
        f"The run's ledger cannot be read or written ({type(error).__name__}: {words}). Free space on the disk, then go on with --resume.",
    )


def _reply(answer: Mapping[str, Any]) -> ModelReply:
    return ModelReply(**{**answer, "content": tuple(answer["content"]), "usage": Usage(**answer["usage"])})


def _iso(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec="milliseconds")


def _add(one: Usage, two: Usage) -> Usage:
    return Usage(**{name: value + getattr(two, name) for name, value in asdict(one).items()})
