"""The failure matrix: whatever fails, however it fails, a run ends in a training set with its gaps named or in a sentence; it never hangs and is never empty."""

from dataclasses import replace
from pathlib import Path

import pipeline_kit as kit
import pytest
from fakes.messages_api import Fault

from pipeline.ports import CallFailed
from pipeline.values import PipelineFailed

KINDS = [
    "rate_limited",
    "overloaded",
    "server_error",
    "timeout504",
    "html_200",
    "drop",
    "broken_body",
    "refusal",
    "max_tokens",
    "malformed",
    "short",
    "too_large",
    "invalid_request",
    "format_unsupported",
    "json_200",
    "redirect",
]
# Two batches, two questions, two agents: the least that has others to go on when one fails.
TINY = replace(kit.SMALL, examples=4, queries=2, batch_size=2, findings_per_batch=2)
SEARCH_KINDS = ["search_error", "no_results", "pause_turn", *KINDS]
FATAL = {"bad_key": "ANTHROPIC_API_KEY", "no_quota": "credit", "no_quota_400": "credit", "no_such_model": "--model", "no_permission": "key"}
STREAM_KINDS = ["stream_error", "stream_cut", "drop", "overloaded", "html_200"]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory):
    with kit.world(tmp_path_factory.mktemp("matrix")) as world:
        yield world


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    from pipeline import calls

    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(calls, "MAX_PAUSE", 0.02)


def attempt(world: kit.World, order, **changes):
    """The outcome, or the error that the run ended in."""
    try:
        return world.run(order, world.controls(**changes)), None
    except PipelineFailed as error:
        return None, error


def ends_well(world: kit.World, **changes) -> str:
    """Run; what came of it, in one word, after checking that it was said."""
    outcome, error = attempt(world, kit.order(config=TINY), **changes)
    if outcome is None:
        assert error is not None
        assert len(error.message) > 20
        assert "Traceback" not in error.message
        return "error"
    report = kit.report_of(outcome)
    assert len(outcome.draft.examples) == report["funnel"]["pairs"][-1]["count"] > 0
    if outcome.status != "complete":
        assert report["gaps"]
        assert all(gap["message"].strip() for gap in report["gaps"])
    assert (outcome.folder / "manifest.json").exists()
    return str(outcome.status)


@pytest.mark.parametrize("kind", SEARCH_KINDS)
def test_every_web_search_fails(stand, kind):
    stand.messages.reset(Fault(kind, "search", times=None, retry_after=0.01))
    # The papers agent is another service: a set is written from what it found.
    assert ends_well(stand) in ("complete", "partial")


@pytest.mark.parametrize("kind", SEARCH_KINDS)
def test_one_web_search_fails_and_the_others_go_on(stand, kind):
    stand.messages.reset(Fault(kind, "search", times=1, retry_after=0.01))
    assert ends_well(stand) == "complete"


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_fails(stand, kind):
    stand.messages.reset(Fault(kind, "synthesis", times=None, retry_after=0.01))
    assert ends_well(stand) in ("error", "partial")


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_fails_once(stand, kind):
    stand.messages.reset(Fault(kind, "synthesis", times=1, retry_after=0.01))
    assert ends_well(stand) == "complete"


@pytest.mark.parametrize("purpose", ["extract", "queries"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_before_research_fails(stand, kind, purpose):
    stand.messages.reset(Fault(kind, purpose, times=None, retry_after=0.01))
    result = ends_well(stand)
    assert result == "error" or kind == "short"  # fewer questions than asked for are still questions


@pytest.mark.parametrize(("kind", "words"), FATAL.items())
@pytest.mark.parametrize("purpose", ["extract", "search", "synthesis"])
def test_a_reason_that_stops_everything_says_what_to_do(stand, kind, words, purpose):
    stand.messages.reset(Fault(kind, purpose, times=None))
    with pytest.raises(PipelineFailed) as failed:
        stand.run(kit.order())
    assert words in f"{failed.value.message} {failed.value.hint}"
    # One refusal is enough: at most the calls that were under way were sent.
    assert len(stand.messages.requests) <= 2 + 5 + 2


@pytest.mark.parametrize("kind", STREAM_KINDS)
@pytest.mark.parametrize("times", [1, None])
def test_streams_break(stand, kind, times):
    stand.messages.reset(Fault(kind, "synthesis", times=times))
    result = ends_well(stand, stream=True)
    assert result == "complete" if times == 1 else result in ("error", "partial")


@pytest.mark.parametrize("fault", ["rate_limited", "500", "html_200", "drop", "broken_body", "empty", "bad_json"])
def test_every_paper_service_fails(stand, fault):
    stand.messages.reset()
    services = ("semantic_scholar", "openalex", "arxiv")
    for service in services:
        stand.papers.always(service, fault)
    try:
        assert ends_well(stand) == "complete"
    finally:
        for service in services:
            stand.papers.always(service, None)


def test_research_that_finds_nothing_is_an_error_that_says_why(stand):
    stand.messages.reset(Fault("no_results", "search", times=None))
    for service in ("semantic_scholar", "openalex", "arxiv"):
        stand.papers.always(service, "empty")
    try:
        with pytest.raises(PipelineFailed, match="nothing that may carry an answer"):
            stand.run(kit.order())
    finally:
        for service in ("semantic_scholar", "openalex", "arxiv"):
            stand.papers.always(service, None)


def test_a_storm_of_429_is_waited_out(stand):
    stand.messages.reset(Fault("rate_limited", "", times=12, retry_after=0.02))
    assert ends_well(stand, max_attempts=15) == "complete"


def test_a_budget_stops_the_run_and_a_resume_ends_it(stand):
    stand.messages.reset()
    order = kit.order()
    whole = stand.run(kit.order())
    spent = kit.report_of(whole)["spending"]["total"]["cost"]
    part, error = attempt(stand, order, max_cost=spent * 0.7)
    assert error is None or "cost" in error.message or "budget" in error.message
    assert part is None or (part.status == "stopped" and 0 < len(part.draft.examples) < 10)
    stand.messages.requests.clear()
    done = stand.run(order)
    assert done.status == "complete"
    assert kit.pair_texts(done) == kit.pair_texts(whole)
    assert 0 < len(stand.messages.requests) < 9


def test_a_full_disk_stops_with_a_sentence_and_keeps_what_was_paid_for(stand, monkeypatch):
    from pipeline.store import SqlRunStore

    stand.messages.reset()
    order, record, left = kit.order(), SqlRunStore.record, [4]

    async def full(self, call):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        await record(self, call)

    monkeypatch.setattr(SqlRunStore, "record", full)
    with pytest.raises((PipelineFailed, CallFailed)) as failed:
        stand.run(order)
    assert "space" in str(failed.value).lower() or "ledger" in str(failed.value).lower() or "disk" in str(failed.value).lower()
    monkeypatch.setattr(SqlRunStore, "record", record)
    before = len(stand.messages.requests)
    assert stand.run(order).status == "complete"
    assert len(stand.messages.requests) > before


def test_a_missing_key_says_what_to_set(stand):
    from pipeline.config import Keys

    with pytest.raises(PipelineFailed) as failed:
        stand.run(kit.order(), stand.controls(keys=Keys()))
    assert "ANTHROPIC_API_KEY" in failed.value.hint
    assert "datasets import" in failed.value.hint


def test_a_clock_that_jumps_changes_nothing(stand, tmp_path: Path):
    with kit.world(tmp_path, clock_offset=-86_400.0) as world:
        assert ends_well(world) == "complete"
