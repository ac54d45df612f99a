"""How fast one key may ask: concurrency, requests and tokens per minute, and pauses that the server asks for. One governor per key and model pool.

Rules: whoever came first goes first. A slot is held while a request is under way and never while somebody waits to try again. Buckets follow the
server's headers; without headers and without settings there is no limit but concurrency. A refusal (429, 529) halves the concurrency once per wave,
`grow_after` successes give one back. Only the monotonic clock counts here, so a wall clock that jumps changes nothing.

It does not know other processes that use the same key; their use shows in the headers only.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from pipeline.ports import Limits, Usage

Sleep = Callable[[float], Awaitable[None]]
MINUTE = 60.0
SLACK = 1e-6  # float dust must not make a waiter sleep again


@dataclass
class Bucket:
    """Tokens that come back evenly, `limit` a minute, up to `limit`. `pending` is what admitted requests may still use."""

    limit: float
    level: float
    at: float
    pending: float = 0.0

    def refill(self, now: float) -> None:
        """Add what came back since the last look."""
        self.level = min(self.limit, self.level + max(0.0, now - self.at) * self.limit / MINUTE)
        self.at = now

    def wait(self, need: float, now: float) -> float:
        """Seconds until `need` is there; a need above the whole bucket waits for a full one."""
        self.refill(now)
        missing = min(need, self.limit) - self.level
        return missing * MINUTE / self.limit if missing > SLACK else 0.0

    def correct(self, limit: int | None, remaining: int | None, now: float) -> None:
        """Believe the server: what it says is left, less at most what is still under way."""
        self.refill(now)
        if limit and limit != self.limit:
            self.limit = float(limit)
        if remaining is not None:
            self.level = min(max(self.level, remaining - self.pending), float(remaining))


@dataclass
class Slot:
    """One admitted request: what it reserved, and when it started."""

    needs: dict[str, float]
    wave: int
    used: dict[str, float] = field(default_factory=dict)

    def settle(self, usage: Usage) -> None:
        """Say what the request really used; reads from the cache do not count to the limits."""
        self.used = {"input": float(usage.input_tokens + usage.cache_write_tokens), "output": float(usage.output_tokens)}


class Governor:
    """Admits requests; see the module's rules. `clock` and `sleep` are for tests."""

    def __init__(
        self,
        concurrency: int = 20,
        *,
        requests_per_minute: int | None = None,
        input_tokens_per_minute: int | None = None,
        output_tokens_per_minute: int | None = None,
        grow_after: int = 4,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.most = max(1, concurrency)
        self.allowed = self.most
        self.active = 0
        self.waited_s = 0.0  # seconds that requests stood in line, for the report
        self._clock, self._sleep, self._grow_after = clock, sleep, grow_after
        self._successes = self._wave = 0
        self._paused_until = float("-inf")
        self._line = asyncio.Lock()  # asyncio's lock wakes in the order of arrival
        self._changed = asyncio.Event()
        now = clock()
        start = {"requests": requests_per_minute, "input": input_tokens_per_minute, "output": output_tokens_per_minute}
        self._buckets = {name: Bucket(float(limit), float(limit), now) for name, limit in start.items() if limit}
        self._under_way: dict[str, float] = dict.fromkeys(start, 0.0)

    @property
    def limits(self) -> dict[str, float]:
        """The known limits per minute, by requests, input and output."""
        return {name: bucket.limit for name, bucket in self._buckets.items()}

    @contextlib.asynccontextmanager
    async def slot(self, *, input_tokens: int = 0, output_tokens: int = 0) -> AsyncIterator[Slot]:
        """Wait in line, then hold a slot inside the block. The tokens are estimates; `settle` corrects them."""
        slot = await self._enter({"requests": 1.0, "input": float(input_tokens), "output": float(output_tokens)})
        try:
            yield slot
        finally:
            self._leave(slot)

    def learn(self, limits: Limits) -> None:
        """Take over what the headers of a response said."""
        now = self._clock()
        told = {
            "requests": (limits.requests_limit, limits.requests_remaining),
            "input": (limits.input_tokens_limit, limits.input_tokens_remaining),
            "output": (limits.output_tokens_limit, limits.output_tokens_remaining),
        }
        for name, (limit, remaining) in told.items():
            if limit and name not in self._buckets:
                self._buckets[name] = Bucket(float(limit), float(limit), now, self._under_way[name])
            if name in self._buckets:
                self._buckets[name].correct(limit, remaining, now)
        self._changed.set()

    def succeeded(self) -> None:
        """Count an answer; every `grow_after` of them give back one place."""
        self._successes += 1
        if self._successes >= self._grow_after and self.allowed < self.most:
            self.allowed, self._successes = self.allowed + 1, 0
            self._changed.set()

    def refused(self, slot: Slot) -> None:
        """Halve the concurrency after a 429 or 529; requests of the same wave halve it once."""
        if slot.wave == self._wave:
            self.allowed, self._successes, self._wave = max(1, self.allowed // 2), 0, self._wave + 1

    def pause(self, seconds: float) -> None:
        """Admit nobody for so long, because the server said so."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)
        self._changed.set()

    async def _enter(self, needs: dict[str, float]) -> Slot:
        came = self._clock()
        async with self._line:
            while True:
                self._changed.clear()
                wait = self._wait(needs)
                if wait == 0:
                    break
                await self._until_changed(wait)
            self.active += 1
            self._reserve(needs, 1.0)
            self.waited_s += self._clock() - came
            return Slot(needs, self._wave)

    def _wait(self, needs: dict[str, float]) -> float | None:
        """Seconds to wait before this request may go; 0 now, None until something changes."""
        if self.active >= self.allowed:
            return None
        now = self._clock()
        waits = [self._buckets[name].wait(need, now) for name, need in needs.items() if name in self._buckets]
        return max([0.0, self._paused_until - now, *waits])

    async def _until_changed(self, seconds: float | None) -> None:
        change = asyncio.ensure_future(self._changed.wait())
        timer = None if seconds is None else asyncio.ensure_future(self._sleep(seconds))
        both = [change] if timer is None else [change, timer]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()

    def _reserve(self, needs: dict[str, float], sign: float) -> None:
        """Book the needs (sign 1), or take them off what is under way (sign -1) without giving them back."""
        for name, need in needs.items():
            self._under_way[name] += sign * need
            bucket = self._buckets.get(name)
            if bucket is not None:
                bucket.pending = self._under_way[name]
                if sign > 0:
                    bucket.level -= need

    def _leave(self, slot: Slot) -> None:
        self.active -= 1
        self._reserve(slot.needs, -1.0)
        for name, used in slot.used.items():
            if name in self._buckets:
                bucket = self._buckets[name]
                bucket.refill(self._clock())
                bucket.level = min(bucket.limit, bucket.level + slot.needs[name] - used)
        self._changed.set()


class Pools:
    """One governor per model, all made alike: the providers count each model's limits on their own."""

    def __init__(self, make: Callable[[], Governor]) -> None:
        self._make = make
        self._governors: dict[str, Governor] = {}

    def of(self, model: str) -> Governor:
        """The model's governor."""
        if model not in self._governors:
            self._governors[model] = self._make()
        return self._governors[model]
