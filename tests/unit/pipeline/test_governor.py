"""The governor on a clock that is moved by hand: who may go when, what headers change, what a refusal costs."""

import asyncio

import pytest
from fakes.virtual_time import run

from pipeline.governor import Governor, Pools
from pipeline.ports import Limits, Usage


def governor(loop, *args, **facts):
    return Governor(*args, clock=loop.time, **facts)


async def _call(gov, log, name, seconds=10.0, loop=None, **needs):
    async with gov.slot(**needs) as slot:
        log.append((name, loop.time()))
        await asyncio.sleep(seconds)
        return slot


def test_no_more_than_the_concurrency_run_and_first_come_is_first_served():
    async def main(loop):
        gov, log = governor(loop, 2), []
        await asyncio.gather(*(_call(gov, log, n, loop=loop) for n in range(5)))
        return log

    assert run(main) == [(0, 0.0), (1, 0.0), (2, 10.0), (3, 10.0), (4, 20.0)]


@pytest.mark.parametrize(
    ("limit", "needs"),
    [
        ({"requests_per_minute": 6}, {}),
        ({"input_tokens_per_minute": 600}, {"input_tokens": 100}),
        ({"output_tokens_per_minute": 600}, {"output_tokens": 100}),
    ],
)
def test_a_full_bucket_lets_six_go_at_once_and_one_more_every_ten_seconds(limit, needs):
    async def main(loop):
        gov, log = governor(loop, 100, **limit), []
        await asyncio.gather(*(_call(gov, log, n, 0.0, loop=loop, **needs) for n in range(9)))
        return [round(at, 3) for _, at in log]

    assert run(main) == [0, 0, 0, 0, 0, 0, 10, 20, 30]


def test_what_was_not_used_comes_back_and_what_was_used_beyond_the_estimate_is_owed():
    async def main(loop):
        gov = governor(loop, 10, output_tokens_per_minute=600)
        async with gov.slot(output_tokens=600) as slot:
            slot.settle(Usage(output_tokens=100))
        began = loop.time()
        async with gov.slot(output_tokens=500) as slot:
            slot.settle(Usage(output_tokens=700))
        free = loop.time() - began
        async with gov.slot(output_tokens=100):
            pass
        return free, round(loop.time() - began, 3)

    assert run(main) == (0.0, 30.0)


def test_a_request_above_the_whole_bucket_waits_for_a_full_one_and_goes():
    async def main(loop):
        gov = governor(loop, 10, input_tokens_per_minute=600)
        async with gov.slot(input_tokens=300):
            pass
        async with gov.slot(input_tokens=5000):
            return round(loop.time(), 3)

    assert run(main) == 30.0


def test_without_limits_nothing_waits_until_headers_tell():
    async def main(loop):
        gov = governor(loop, 100)
        for _ in range(50):
            async with gov.slot(input_tokens=10_000):
                pass
        before = loop.time()
        gov.learn(Limits(requests_limit=60, requests_remaining=1, input_tokens_limit=1000, input_tokens_remaining=1000))
        async with gov.slot():
            pass
        async with gov.slot():
            pass
        return before, gov.limits, round(loop.time(), 3)

    assert run(main) == (0.0, {"requests": 60.0, "input": 1000.0}, 1.0)


def test_headers_correct_downwards_and_upwards_but_leave_what_is_under_way():
    async def main(loop):
        gov = governor(loop, 10, output_tokens_per_minute=1000)
        gov.learn(Limits(output_tokens_limit=1000, output_tokens_remaining=100))  # another process used it
        low = gov._buckets["output"].level
        gov.learn(Limits(output_tokens_limit=1000, output_tokens_remaining=900))
        high = gov._buckets["output"].level
        async with gov.slot(output_tokens=400):
            gov.learn(Limits(output_tokens_limit=1000, output_tokens_remaining=900))  # the server has not counted ours yet
            return low, high, gov._buckets["output"].level

    assert run(main) == (100.0, 900.0, 500.0)


def test_a_pause_holds_everybody_and_then_lets_them_go():
    async def main(loop):
        gov, log = governor(loop, 10), []
        gov.pause(7)
        gov.pause(3)  # a shorter one does not shorten it
        await asyncio.gather(*(_call(gov, log, n, loop=loop) for n in range(3)))
        return [at for _, at in log]

    assert run(main) == [7.0, 7.0, 7.0]


def test_a_wave_of_refusals_halves_once_and_successes_grow_back():
    async def main(loop):
        gov = governor(loop, 16, grow_after=2)
        slots = await asyncio.gather(*(_call(gov, [], n, loop=loop) for n in range(8)))
        for slot in slots:
            gov.refused(slot)
        halved = gov.allowed
        async with gov.slot() as later:
            gov.refused(later)
        again = gov.allowed
        for _ in range(5):
            gov.succeeded()
        grown = gov.allowed
        for _ in range(100):
            gov.succeeded()
        return halved, again, grown, gov.allowed

    assert run(main) == (8, 4, 6, 16)


def test_concurrency_never_falls_below_one():
    async def main(loop):
        gov = governor(loop, 1)
        async with gov.slot() as slot:
            gov.refused(slot)
        async with gov.slot():
            return gov.allowed

    assert run(main) == 1


def test_a_cancelled_waiter_leaves_the_line_and_a_cancelled_holder_gives_its_slot_back():
    async def main(loop):
        gov, log = governor(loop, 1), []
        tasks = [asyncio.ensure_future(_call(gov, log, n, loop=loop)) for n in range(4)]
        await asyncio.sleep(1)
        tasks[1].cancel()  # at the head of the line
        tasks[2].cancel()  # behind it
        tasks[0].cancel()  # holding the slot
        await asyncio.gather(*tasks, return_exceptions=True)
        return log, gov.active

    assert run(main) == ([(0, 0.0), (3, 1.0)], 0)


def test_an_exception_inside_the_slot_gives_it_back():
    async def main(loop):
        gov = governor(loop, 1)
        with pytest.raises(KeyError):
            async with gov.slot():
                raise KeyError
        async with gov.slot():
            return gov.active

    assert run(main) == 1


def test_every_model_has_its_own_governor():
    pools = Pools(Governor)
    assert pools.of("a") is pools.of("a")
    assert pools.of("a") is not pools.of("b")
