"""Which findings a batch may rest on: near its cells, evenly used, no domain too often, and some sources for held-out pairs alone."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.assignment import MIN_SOURCES, assign, set_apart, site_of, spread
from pipeline.config import PipelineConfig
from pipeline.values import Cell, Finding, finding_id

CONFIG = PipelineConfig(findings_per_batch=3, heldout=0.0)


def finding(number, host="a.org", text="", role="answer"):
    url = f"https://www.{host}/{number}"
    return Finding(
        finding_id(url, text, role), url, f"Title {number}", text, "web_1", "q001", "", "excerpt", "", role, "academic", "unknown", "r"
    )


def group(*scenarios):
    return tuple(Cell(f"c{i}", "scenario", "", scenario, "", "", 1, i) for i, scenario in enumerate(scenarios))


def test_a_batch_gets_the_findings_that_share_rare_words_with_it():
    about = ["night shifts in a hospital ward", "salary negotiation by telephone", "rest and naps"]
    findings = [finding(i, f"h{i}.org", text) for i, text in enumerate(about)]
    config = replace(CONFIG, findings_per_batch=1, domain_share=1.0)
    given = assign([group("nurse on night shifts"), group("negotiation of a salary")], findings, config)
    assert given == [[findings[0].id], [findings[1].id]]


def test_everything_is_used_before_anything_is_used_twice():
    findings = [finding(i, f"h{i}.org", "night shifts" if i < 3 else "other words") for i in range(12)]
    given = assign([group("night shifts")] * 4, findings, CONFIG)
    assert Counter(i for ids in given for i in ids) == {f.id: 1 for f in findings}


def test_no_domain_fills_more_than_its_share_while_another_can_help():
    findings = [finding(i, "big.org", f"text {i}") for i in range(50)] + [finding(100 + i, f"h{i}.org", f"text {i}") for i in range(20)]
    config = replace(CONFIG, domain_share=0.2)
    given = assign([group("text")] * 10, findings, config)
    by_id = {f.id: site_of(f) for f in findings}
    assert sum("big.org" in {by_id[i] for i in ids} for ids in given) == 2  # 20% of the batches
    assert all(len(ids) == 3 for ids in given)


def test_a_paper_s_site_is_its_journal():
    paper = replace(finding(1, "doi.org"), doi="10.1000/x", csl={"container-title": "Journal of Rest"})
    assert site_of(paper) == "journal of rest"
    assert site_of(replace(paper, csl={})) == "10.1000"
    assert site_of(finding(2, "who.int")) == "who.int"


def test_one_domain_alone_is_used_although_it_passes_its_share():
    findings = [finding(i, "only.org", f"text {i}") for i in range(5)]
    assert all(len(ids) == 3 for ids in assign([group("text")] * 10, findings, CONFIG))


def test_questions_come_beside_the_answers_and_never_instead():
    findings = [finding(i, f"h{i}.org", f"t{i}") for i in range(6)] + [finding(9, "forum.org", "why?", "question")]
    given = assign([group("x"), group("y")], findings, CONFIG)
    assert all(len(ids) == 4 and ids[-1] == findings[-1].id for ids in given)


@pytest.mark.parametrize("batches", [10, 37, 100])
def test_sources_set_apart_are_seen_by_their_batches_only(batches):
    findings = [finding(i, f"h{i % 7}.org", f"text {i}") for i in range(60)]
    given = assign([group("text")] * batches, findings, replace(CONFIG, heldout=0.1))
    apart = {f.id for f in set_apart(findings, 0.1)[0]}
    lone = [ids for ids in given if set(ids) & apart]
    assert len(lone) == round(0.1 * batches)
    assert all(set(ids) <= apart for ids in lone)


def test_with_few_sources_none_is_set_apart():
    few = [finding(i) for i in range(MIN_SOURCES)]
    assert set_apart(few, 0.2) == ([], few)


def test_passages_of_one_page_stay_on_one_side():
    findings = [finding(i // 3, "a.org", f"passage {i}") for i in range(90)]
    apart, rest = set_apart(findings, 0.2)
    assert {f.url for f in apart} & {f.url for f in rest} == set()
    assert len({f.url for f in apart}) == 6


def test_the_order_of_findings_and_sets_does_not_matter():
    findings = [finding(i, f"h{i % 5}.org", f"text {i} about night shifts and naps {i * 7}") for i in range(40)]
    groups = [group(f"night {i}", "naps") for i in range(12)]
    shuffled = findings[:]
    random.Random(1).shuffle(shuffled)  # noqa: S311
    config = replace(CONFIG, heldout=0.1)
    assert assign(groups, findings, config) == assign(groups, shuffled, config)


@pytest.mark.parametrize(("n", "k"), [(10, 1), (10, 3), (100, 10), (5, 5), (7, 0)])
def test_places_are_spread_over_the_whole(n, k):
    places = spread(n, k)
    assert len(set(places)) == k
    assert all(0 <= place < n for place in places)
