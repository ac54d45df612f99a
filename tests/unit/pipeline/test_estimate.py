"""What a run would take, before it takes anything."""

import pytest

from pipeline.config import Controls, PipelineConfig
from pipeline.estimate import estimate
from pipeline.prices import Prices
from pipeline.steps import agent_names, query_counts
from pipeline.values import QUERY_KINDS
from registry.errors import Invalid

PRICES = Prices.read()


def test_an_estimate_grows_with_what_is_asked_for():
    small, large = (estimate(PipelineConfig(examples=n), Controls(), PRICES) for n in (50, 500))
    assert small.cost is not None
    assert large.cost > small.cost > 0
    assert large.calls["synthesis"] == 115  # 100 batches and what is usually asked again
    assert large.seconds > small.seconds
    assert large.output_tokens > 500 * 400


def test_an_unknown_price_makes_an_unknown_cost():
    assert estimate(PipelineConfig(model="somebody's-model", provider="openai"), Controls(), PRICES).cost is None


def test_more_places_take_less_time_and_need_a_higher_rate():
    one, many = (estimate(PipelineConfig(examples=500), Controls(concurrency=n), PRICES) for n in (5, 50))
    assert one.seconds > 3 * many.seconds
    assert one.output_tokens_per_minute < many.output_tokens_per_minute


@pytest.mark.parametrize("examples", [1, 50, 200, 500, 5000, 20000])
@pytest.mark.parametrize("papers", [True, False])
def test_questions_are_of_the_named_kinds_and_as_many_as_the_size_needs(examples, papers):
    counts = query_counts(PipelineConfig(examples=examples, papers=papers))
    assert set(counts) <= set(QUERY_KINDS)
    assert ("study" in counts) == papers
    assert sum(counts.values()) == min(60, max(8, -(-examples // 20)))


def test_the_agents_are_those_that_were_asked_for():
    assert agent_names(PipelineConfig(), documents=False) == ["web_1", "web_2", "web_3", "web_4", "web_5", "papers"]
    assert agent_names(PipelineConfig(web_agents=1, papers=False, forum=True), documents=True) == ["web_1", "forum", "files"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"examples": 0}, "--examples"),
        ({"provider": "x"}, "--provider"),
        ({"model": " "}, "--model"),
        ({"web_agents": 0}, "--web-agents"),
        ({"queries": 500}, "--queries"),
        ({"web_search_type": "web_search_1"}, "--web-search"),
        ({"batch_size": 0}, "--batch-size"),
        ({"composition": {"scenario": 0.5}}, "add up to 1"),
        ({"domain_share": 0}, "--domain-share"),
        ({"heldout": 0.9}, "--heldout"),
        ({"allowed_domains": {"a.org": "nonsense"}}, "class"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_in_words(changes, words):
    with pytest.raises(Invalid, match=words):
        PipelineConfig(**changes).check()


def test_an_order_is_read_back_as_it_was_written():
    order = PipelineConfig(documents=("sha256:1",), threads=("sha256:2",), denied_domains=("a.org",), allowed_domains={"b.org": "industry"})
    assert PipelineConfig.from_json(order.as_json()) == order
    assert PipelineConfig.from_json(order.as_json()).digest == order.digest
