"""The report counts what a run did: everything has one fate, nothing unknown becomes 0, and the page shows foreign text as text."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from fakes.run_facts import START, cell, finding, pair, run_facts

from pipeline.config import PipelineConfig
from pipeline.ports import Recorded, Usage
from pipeline.report import UNKNOWN, CountsDisagree, RunFacts, build_report, headline, money, step_name
from pipeline.report_page import page
from pipeline.values import Drop, Gap


def facts_of(**more) -> RunFacts:
    """Four pairs on three findings, nothing left out."""
    findings = [finding(1), finding(3), finding(13)]
    cells = [cell(i, "scenario") for i in range(1, 5)]
    pairs = [pair(c, (findings[i % 3].id,)) for i, c in enumerate(cells)]
    given = {
        "run_id": "r",
        "advisor": "elena",
        "config": PipelineConfig(examples=4, composition={"scenario": 1.0}),
        "persona_sha256": "sha256:" + "0" * 64,
        "findings_all": findings,
        "findings_kept": [f.id for f in findings],
        "cells": cells,
        "pairs_written": pairs,
        "pairs_kept": [p.id for p in pairs],
        "generator": "m (X)",
    }
    return RunFacts(**{**given, **more})


# -- counts add up ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("examples", "found", "seed"), [(200, 300, 7), (50, 40, 1), (300, 60, 3)])
def test_every_step_passes_on_what_it_did_not_leave_out(examples, found, seed):
    facts = run_facts(examples, found, seed)
    report = build_report(facts).as_json()
    for stream, kept in (("findings", len(facts.findings_kept)), ("pairs", len(facts.pairs_kept))):
        rows = [row for row in report["flow"] if row["stream"] == stream]
        for row in rows:
            assert row["in"] - sum(row["dropped"].values()) == row["kept"]
        for before, after in pairwise(rows):
            assert before["kept"] == after["in"]
        assert rows[-1]["kept"] == kept
        assert report["funnel"][stream][0]["count"] == rows[0]["in"]
        counts = [step["count"] for step in report["funnel"][stream]]
        assert counts == sorted(counts, reverse=True)
    assert sum(row["count"] for row in report["drops"]) == len(facts.drops)
    assert sum(row["achieved"] for row in report["composition"]) == len(facts.pairs_kept)
    assert sum(row["target"] for row in report["composition"]) == facts.config.examples
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def lost(facts):
    return dataclasses.replace(facts, pairs_kept=facts.pairs_kept[1:])


def twice(facts):
    return dataclasses.replace(facts, drops=[Drop(facts.pairs_kept[0], "quality", "bulleted")])


def dropped_twice(facts):
    drops = [Drop(facts.pairs_kept[0], step, "x") for step in ("quality", "gather")]
    return dataclasses.replace(facts, pairs_kept=facts.pairs_kept[1:], drops=drops)


def unlisted(facts):
    return dataclasses.replace(facts, pairs_kept=[*facts.pairs_kept, "p_ghost"])


def repeated(facts):
    return dataclasses.replace(facts, pairs_written=[*facts.pairs_written, facts.pairs_written[0]])


def flagged(facts):
    first = dataclasses.replace(facts.findings_all[0], flags=("override",))
    return dataclasses.replace(facts, findings_all=[first, *facts.findings_all[1:]])


def unfounded(facts):
    first = facts.findings_all[0].id
    return dataclasses.replace(facts, findings_kept=facts.findings_kept[1:], drops=[Drop(first, "merge", "duplicate")])


def homeless(facts):
    return dataclasses.replace(facts, cells=facts.cells[1:])


def odd_status(facts):
    return dataclasses.replace(facts, status="fine")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lost, "p_c0001 was neither kept nor left out"),
        (twice, "p_c0001 was kept and left out"),
        (dropped_twice, "p_c0001 was left out 2 times"),
        (unlisted, "p_ghost was kept but never listed"),
        (repeated, "p_c0001 is listed 2 times"),
        (flagged, "was kept although override flagged it"),
        (unfounded, "rests on f_"),
        (homeless, "c0001, which is no cell"),
        (odd_status, "The status is one of"),
    ],
)
def test_facts_that_contradict_each_other_are_a_fault(break_it, words):
    build_report(facts_of())
    with pytest.raises(CountsDisagree, match=re.escape(words)):
        build_report(break_it(facts_of()))


def test_every_fault_is_named():
    facts = dataclasses.replace(facts_of(), pairs_kept=[], status="complete")
    with pytest.raises(CountsDisagree) as caught:
        build_report(facts)
    assert len(caught.value.faults) == 4


def test_only_a_stopped_run_may_leave_pairs_unreached():
    facts = facts_of(status="stopped", stop_reason="The budget of $1.00 is spent.")
    report = build_report(dataclasses.replace(facts, pairs_kept=facts.pairs_kept[:1])).as_json()
    assert report["flow"][-1] | {"name": ""} == {
        "stream": "pairs", "step": "not_reached", "name": "", "in": 4, "kept": 1, "dropped": {"not_reached": 3}
    }  # fmt: skip


def test_what_a_writing_step_says_of_a_cell_is_about_a_pair_that_never_was():
    facts = facts_of(drops=[Drop("c0001", "synthesis", "malformed", "no turns"), Drop("https://x.example/", "web_3", "never.social")])
    report = build_report(facts).as_json()
    assert [(r["stream"], r["step"], r["in"], r["kept"]) for r in report["flow"] if r["dropped"]] == [
        ("findings", "web", 4, 3),
        ("pairs", "synthesis", 5, 4),
    ]


def test_an_empty_run_is_reported_as_empty():
    facts = RunFacts("r", "elena", PipelineConfig(examples=10), "sha256:0", status="stopped", stop_reason="No key.")
    report = build_report(facts)
    assert report.headline == "No example conversation was kept."
    assert report.as_json()["spending"]["per_pair"] == {"cost": None, "input_tokens": None, "output_tokens": None}
    assert "No key." in page(report)


# -- what may be said ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([(1,), (3,)], "2 example conversations, written by m (X) from excerpts of 2 documents; rule-checked, none read by people yet."),
        ([(1,)], "1 example conversation, written by m (X) from excerpts of 1 document; rule-checked, not read by people yet."),
        (
            [(1,), ()],
            "2 example conversations, written by m (X), 1 of them from excerpts of 1 document and 1 from none; rule-checked, none",
        ),
        ([(), ()], "2 example conversations, written by m (X), resting on no document; rule-checked, none read by people yet."),
        (
            [(13,), (1, 13)],
            "1 of them from excerpts of 1 document and 1 from none; 1 discussion thread shaped questions only; rule-checked",
        ),
    ],
)
def test_the_headline_says_no_more_than_the_records(given, said):
    findings = [finding(i) for i in (1, 3, 13)]
    by_number = dict(zip((1, 3, 13), findings, strict=True))
    cells = [cell(i, "scenario") for i in range(1, len(given) + 1)]
    pairs = [pair(c, tuple(by_number[n].id for n in numbers)) for c, numbers in zip(cells, given, strict=True)]
    assert said in headline(facts_of(cells=cells, pairs_written=pairs, pairs_kept=[p.id for p in pairs]))


def call(cost, *, attempts=1, purpose="synthesis") -> Recorded:
    return Recorded("k", purpose, {}, START.isoformat(), Usage(100, 50, cache_read_tokens=10), cost, attempts, 2.0)


@pytest.mark.parametrize(
    ("costs", "total", "each", "words"),
    [
        ([0.5, 1.5], 2.0, 0.5, "$2.00"),
        ([0.5, None], UNKNOWN, UNKNOWN, "unknown; at least $0.50, beside 1 call without a known price"),
        ([None, None], UNKNOWN, UNKNOWN, "unknown (2 calls without a known price)"),
        ([], 0, 0.0, "$0.00"),
    ],
)
def test_an_unknown_price_is_never_nothing(costs, total, each, words):
    report = build_report(facts_of(calls=[call(c) for c in costs]))
    spending = report.as_json()["spending"]
    assert (spending["total"]["cost"], spending["per_pair"]["cost"], report.cost_words) == (total, each, words)
    assert words in page(report)


def test_calls_are_counted_by_purpose():
    calls = [call(0.1, purpose="web_10"), call(0.1, purpose="web_2", attempts=3), call(0.2), call(0.2)]
    spending = build_report(facts_of(calls=calls, replayed=2)).as_json()["spending"]
    assert [(r["name"], r["calls"], r["retries"]) for r in spending["by_purpose"]] == [
        ("Web agent 2", 1, 2),
        ("Web agent 10", 1, 0),
        ("Writing pairs", 2, 0),
    ]
    total = spending["total"]
    assert (total["attempts"], total["replayed"], total["input_tokens"], total["output_tokens"]) == (6, 2, 440, 200)
    assert spending["per_pair"]["output_tokens"] == 50


def test_pauses_are_taken_out_of_the_timeline():
    timeline = build_report(run_facts(60, 90)).as_json()["timeline"]
    assert len(timeline["pauses"]) == 1
    assert 3400 < timeline["pauses"][0]["seconds"] < 3600
    assert timeline["seconds"] < 200
    assert all(
        start >= 0 and start + seconds <= timeline["seconds"] + 0.01 for calls in timeline["calls"].values() for start, seconds in calls
    )
    assert build_report(facts_of(calls=[dataclasses.replace(call(0.1), received_at="yesterday")])).as_json()["timeline"]["calls"] == {}


def test_sites_refused_by_a_rule_are_named_most_often_first():
    facts = facts_of(
        drops=[
            Drop("https://www.b.example/1", "web_1", "unknown.domain"),
            Drop("https://b.example/2", "web_2", "never.no-author"),
            Drop("https://a.example/", "web_1", "unknown.domain"),
            Drop("https://seen.example/", "web_1", "not_read"),
        ]
    )
    report = build_report(facts).as_json()
    assert [(d["domain"], d["times"], d["pages"]) for d in report["refused_domains"]] == [("b.example", 2, 2), ("a.example", 1, 1)]
    assert {r["rule"]: r["refused"] for r in report["rules"] if r["refused"]} == {"unknown.domain": 2, "never.no-author": 1}


def test_flags_and_safety_drops_are_reported_with_their_place():
    report = build_report(run_facts(60, 90)).as_json()
    first = report["flagged"][0]
    assert (first["what"], first["rules"], first["agent"]) == ("finding", ["override", "role_tag"], "web_1")
    assert {row["what"] for row in report["flagged"][1:]} == {"pair"}


def test_similar_items_are_counted_by_what_became_of_them():
    facts = run_facts(60, 90)
    report = build_report(facts).as_json()
    bins = [b for name in ("findings", "pairs") for b in report["similarity"][name]["bins"]]
    totals = {fate: sum(b[fate] for b in bins) for fate in ("dropped", "review", "guarded")}
    assert totals == {"dropped": sum(d.score is not None for d in facts.drops), "review": len(facts.review), "guarded": 1}
    assert report["similarity"]["findings"]["bins"][-1]["to"] == 1.0


def test_a_base_models_answer_is_no_neighbour_in_the_set():
    facts = facts_of()
    dropped = Drop(facts.pairs_kept[0], "quality", "near_base", "the base", None, 0.95)
    report = build_report(dataclasses.replace(facts, pairs_kept=facts.pairs_kept[1:], drops=[dropped])).as_json()
    assert report["similarity"]["pairs"]["bins"] == []
    assert report["funnel"]["pairs"][1]["count"] == 3


def test_sources_count_only_where_a_kept_pair_rests_on_them():
    facts = facts_of()
    first = dataclasses.replace(facts.pairs_written[0], findings=(facts.findings_all[1].id,))
    report = build_report(dataclasses.replace(facts, pairs_written=[first], pairs_kept=[first.id])).as_json()
    assert report["sources"]["works"] == 1
    assert report["sources"]["by_class"] == [{"class": "academic", "label": "Academic research", "works": 1}]
    assert report["sources"]["by_extent"] == {"abstract": 1}
    assert report["pairs_by_domain"] == [{"domain": "journal of rest", "pairs": 1, "share": 1.0, "over_cap": True}]


@pytest.mark.parametrize(("dollars", "words"), [(0, "$0.00"), (0.0004, "$0.0004"), (0.01, "$0.01"), (1234.5, "$1,234.50")])
def test_money(dollars, words):
    assert money(dollars) == words


def test_steps_have_names():
    assert [step_name(s) for s in ("web_3", "synthesis", "some_new_step", "")] == ["Web agent 3", "Writing pairs", "Some new step", "Other"]


# -- the page -----------------------------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Collects tags, attributes and whether every element is closed."""

    VOID = frozenset({"meta", "rect", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags


def test_foreign_text_stays_text():
    html = page(build_report(run_facts(60, 90)))
    tags = parsed(html)
    names = {tag for tag, _ in tags.tags}
    assert not names & {"script", "img", "iframe", "object", "link", "form", "base"}
    assert not [name for _, attrs in tags.tags for name in attrs if name.startswith("on")]
    assert "a list: - &lt;script&gt;one&lt;/script&gt;" in html
    assert "alert(&#x27;title&#x27;) Burnout &amp; you" in html
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", html)
    assert "הפסקה" in html
    assert max(len(text) for text in re.findall(r"<bdi[^>]*>([^<]*)</bdi>", html)) < 800


def test_the_page_asks_nothing_of_anybody():
    tags = parsed(page(build_report(run_facts(60, 90))))
    policies = [a["content"] for t, a in tags.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not [a for _, a in tags.tags if "src" in a or "srcset" in a]
    links = [a for t, a in tags.tags if t == "a"]
    assert links
    assert all(a["href"].startswith(("https://", "http://")) and a["rel"] == "noopener nofollow noreferrer" for a in links)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "not a url", ""])
def test_only_web_addresses_become_links(url):
    facts = facts_of()
    odd = dataclasses.replace(facts.findings_all[0], url=url, flags=("override",))
    dropped = [Drop(odd.id, "merge", "flagged")]
    kept = [p for p in facts.pairs_written if odd.id not in p.findings]
    facts = dataclasses.replace(
        facts,
        findings_all=[odd, *facts.findings_all[1:]],
        findings_kept=facts.findings_kept[1:],
        pairs_written=kept,
        pairs_kept=[p.id for p in kept],
        drops=dropped,
    )
    hrefs = [a["href"] for t, a in parsed(page(build_report(facts))).tags if t == "a"]
    assert hrefs
    assert all(h.startswith("https://") for h in hrefs)


def test_gaps_and_statuses_are_said_in_words():
    gaps = [Gap("web_2", "refused", "The model refused <one> search."), Gap("forum", "no_key", "", 2)]
    report = build_report(facts_of(gaps=gaps, status="stopped", stop_reason="--max-cost was reached."))
    assert "Gap: Web agent 2: The model refused <one> search." in report.lines()
    assert "Gap: Forum: no key (2 in all)" in report.lines()
    html = page(report)
    assert "The model refused &lt;one&gt; search." in html
    assert "stopped early" in html
    assert "--max-cost was reached." in html


def test_the_same_facts_give_the_same_page_in_any_order():
    facts = run_facts(50, 60)
    turned = dataclasses.replace(
        facts,
        findings_all=facts.findings_all[::-1],
        pairs_written=facts.pairs_written[::-1],
        pairs_kept=facts.pairs_kept[::-1],
        drops=facts.drops[::-1],
    )
    assert page(build_report(facts)) == page(build_report(turned))
