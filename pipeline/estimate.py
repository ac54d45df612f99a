"""What a run will take, said before anything is paid: calls, tokens, cost, time. Pure arithmetic over stated assumptions, no call.

The assumptions are averages (reference figures of 2026-11, and what the recorded answers hold); a run reports what it really took.
"""

import math
from dataclasses import dataclass

from pipeline.config import Controls, PipelineConfig
from pipeline.ports import Usage
from pipeline.prices import Prices
from pipeline.steps import query_counts

SEARCH_INPUT_TOKENS = 10_000  # of results, per search: they are billed as input
SEARCH_OUTPUT_TOKENS = 600
PAIR_OUTPUT_TOKENS = 450
BATCH_INPUT_TOKENS = 5_000  # rules, persona and six findings
SETUP_TOKENS = (2_000, 1_500)  # both calls before research: input, output
SPARE = 1.15  # batches asked again for what was missing or dropped
SEARCH_SECONDS, BATCH_SECONDS, SETUP_SECONDS = 10.0, 30.0, 10.0
JUDGE_TOKENS = (3_000, 300)


@dataclass(frozen=True)
class Estimate:
    """`cost` in US dollars, None where the model's price is unknown; `seconds` of wall time at the given concurrency, if no rate limit is tighter."""

    calls: dict[str, int]
    input_tokens: int
    output_tokens: int
    searches: int
    cost: float | None
    seconds: float
    output_tokens_per_minute: int


def estimate(config: PipelineConfig, controls: Controls, prices: Prices) -> Estimate:
    """Estimate a run."""
    queries = query_counts(config)
    papers = queries.get("study", 0) if config.papers else 0
    web = sum(queries.values()) - papers
    batches = math.ceil(config.examples / config.batch_size * SPARE)
    judged = batches if config.judge else 0
    searches = web * config.searches_per_query
    research = Usage(web * 500 + searches * SEARCH_INPUT_TOKENS, web * SEARCH_OUTPUT_TOKENS, web_searches=searches)
    writing = Usage(
        2 * SETUP_TOKENS[0] + batches * BATCH_INPUT_TOKENS + judged * JUDGE_TOKENS[0],
        2 * SETUP_TOKENS[1] + math.ceil(config.examples * SPARE) * PAIR_OUTPUT_TOKENS + judged * JUDGE_TOKENS[1],
    )
    costs = (prices.cost(config.research_model, research), prices.cost(config.model, writing))
    waves = math.ceil(batches / controls.concurrency)
    seconds = SETUP_SECONDS + math.ceil(web / controls.concurrency) * SEARCH_SECONDS + waves * BATCH_SECONDS * (2 if judged else 1)
    return Estimate(
        calls={"setup": 2, "web research": web, "papers": papers, "synthesis": batches, **({"judge": judged} if judged else {})},
        input_tokens=research.input_tokens + writing.input_tokens,
        output_tokens=research.output_tokens + writing.output_tokens,
        searches=searches,
        cost=None if None in costs else round(sum(c for c in costs if c is not None), 2),
        seconds=seconds,
        output_tokens_per_minute=round(writing.output_tokens / max(waves * BATCH_SECONDS, 1) * 60),
    )
