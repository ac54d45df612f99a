"""An event loop whose clock jumps to the next timer when nothing else is to be done: hours of waiting pass at once, and always alike."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any


class _Skip(selectors.DefaultSelector):
    """A selector that never waits: it moves the loop's clock instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` starts at 0."""

    def __init__(self) -> None:
        self.skip = _Skip()
        super().__init__(self.skip)

    def time(self) -> float:
        return self.skip.now


def run(main: Callable[[asyncio.AbstractEventLoop], Awaitable[Any]]) -> Any:
    """Run `main(loop)` in virtual time and return its result; a wait of more than a day is a hang."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        async def start() -> Any:
            return await asyncio.wait_for(main(asyncio.get_running_loop()), 86_400)

        return runner.run(start())
