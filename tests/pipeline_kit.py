"""What the end-to-end tests of the pipeline share: stand-ins on loopback, an order, and a run of it with a limit on its time."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fakes.brain import answer
from fakes.messages_api import MessagesApi
from fakes.papers_api import PapersApi

from pipeline.config import Controls, Keys, PipelineConfig
from pipeline.embedding import Embedder
from pipeline.ports import Progress
from pipeline.prices import Prices
from pipeline.run import Outcome, Sources, new_nonce, run
from pipeline.steps import Order
from pipeline.store import SqlRunStore, Workspace
from pipeline.values import text_sha256

REPO = Path(__file__).resolve().parent.parent
SMALL = PipelineConfig(examples=10, queries=5, web_agents=2, batch_size=5, findings_per_batch=4)
LIMIT_S = 60.0  # a run that takes longer hangs


@dataclass
class World:
    """The stand-ins, a folder, and what a run said of itself."""

    home: Path
    messages: MessagesApi
    papers: PapersApi
    events: list[Progress] = field(default_factory=list)

    def controls(self, **changes: Any) -> Controls:
        """How a run is driven here."""
        endpoints = replace(
            self.papers.endpoints, anthropic=self.messages.url, openai=f"{self.messages.url}/v1", base=f"{self.messages.url}/v1"
        )
        return replace(Controls(endpoints=endpoints, keys=Keys(anthropic="test"), timeout_s=10.0, max_attempts=3), **changes)

    def run(self, order: Order, controls: Controls | None = None, sources: Sources | None = None) -> Outcome:
        """Run an order to its end. Raises what the run raises, and TimeoutError where it hangs."""

        async def limited() -> Outcome:
            async with asyncio.timeout(LIMIT_S):
                return await run(
                    order,
                    Workspace(self.home),
                    controls or self.controls(),
                    sources or Sources(),
                    Prices.read(),
                    embedder,
                    self.events.append,
                )

        return asyncio.run(limited())

    def ledger(self, order: Order) -> SqlRunStore:
        """The run's store, to be looked at."""
        return Workspace(self.home).open(order.run)


@contextlib.contextmanager
def world(home: Path, **options: Any) -> Iterator[World]:
    """Stand-ins for as long as the block lasts."""
    with MessagesApi(options.pop("brain", answer), **options) as messages, PapersApi() as papers:
        yield World(home, messages, papers)


def order(advisor: str = "elena", config: PipelineConfig = SMALL, run_id: str | None = None) -> Order:
    """An order for one of the example advisors."""
    text = (REPO / "examples" / advisor / "prompt.md").read_text(encoding="utf-8").strip()
    return Order(run_id or f"test-{advisor}-{time.monotonic_ns() % 10**9}", advisor, text, text_sha256(text), config, new_nonce())


def report_of(outcome: Outcome) -> dict[str, Any]:
    """The report as JSON."""
    return dict(outcome.report.as_json())


def pair_texts(outcome: Outcome) -> Sequence[Any]:
    """The messages of every pair, in order."""
    return [example.messages for example in outcome.draft.examples]


@lru_cache(maxsize=1)
def embedder() -> Embedder:
    """The real model, loaded once for all runs of a process."""
    return Embedder.open(None)
