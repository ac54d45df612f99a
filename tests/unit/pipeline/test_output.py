"""The files of a run are whole or absent, say where every pair comes from, and give the registry what they say."""

import dataclasses
import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from factories import ACTOR, add_advisor
from fakes.run_facts import GENERATOR, finding, pair, run_facts

from pipeline import output
from pipeline.output import MANIFEST, TRAIN, markdown, provenance_rows, research, to_draft, train_rows, write_run
from pipeline.report import build_report
from pipeline.values import Cell, Drop, PipelineFailed
from pipeline.works import works
from registry import advisors, datasets
from registry.imports import Defaults, ExampleDraft, read_csl, read_jsonl
from registry.manifest import digest, digest_bytes

CELL = Cell("c1", "scenario", "nurse", "work", "analogy", "warm", 1, 5)
FILES = {
    TRAIN,
    "train.provenance.jsonl",
    "raw.json",
    "rejected.jsonl",
    "review.jsonl",
    "research.md",
    "report.json",
    "report.html",
    MANIFEST,
}


@pytest.fixture(scope="module")
def facts():
    return run_facts(60, 90)


@pytest.fixture(scope="module")
def draft(facts):
    return to_draft(facts.kept_pairs, facts.used_findings, GENERATOR)


@pytest.fixture(scope="module")
def written(tmp_path_factory, facts, draft):
    """The files of a run, to be read only."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, facts, build_report(facts), draft)
    return folder


@pytest.fixture
def folder(tmp_path, written):
    """The files of a run in a folder of the test's own."""
    return Path(shutil.copytree(written, tmp_path / "out"))


def names(folder):
    return {path.name for path in folder.iterdir()}


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- the files ----------------------------------------------------------------------------------------------------------------------------


def test_the_manifest_comes_last_and_names_every_file(tmp_path, facts, draft):
    paths = write_run(tmp_path / "new" / "run", facts, build_report(facts), draft)
    assert paths[-1].name == MANIFEST
    assert {p.name for p in paths} == FILES == names(tmp_path / "new" / "run")
    manifest = json.loads(paths[-1].read_bytes())
    assert {f["path"] for f in manifest["files"]} == FILES - {MANIFEST}
    for entry in manifest["files"]:
        data = (tmp_path / "new" / "run" / entry["path"]).read_bytes()
        assert (digest_bytes(data), len(data)) == (entry["sha256"], entry["size"])


def test_the_same_facts_give_the_same_bytes_in_any_order(folder, tmp_path, facts):
    turned = dataclasses.replace(
        facts, pairs_written=facts.pairs_written[::-1], findings_all=facts.findings_all[::-1], cells=facts.cells[::-1]
    )
    again = to_draft(turned.kept_pairs[::-1], turned.used_findings[::-1], GENERATOR)
    write_run(tmp_path / "again", turned, build_report(turned), again)
    assert {n: (folder / n).read_bytes() for n in FILES} == {n: (tmp_path / "again" / n).read_bytes() for n in FILES}


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "The disk is full"), (errno.EDQUOT, "The disk is full"), (errno.EACCES, "could not be written")]
)
@pytest.mark.parametrize("nth", [1, 4, 9])
def test_a_full_disk_leaves_what_was_there(folder, facts, draft, monkeypatch, code, words, nth):
    before = {n: (folder / n).read_bytes() for n in FILES}
    real, count = os.fsync, iter(range(1, 100))

    def fsync(handle):
        if next(count) == nth:
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(output.os, "fsync", fsync)
    other = dataclasses.replace(facts, run_id="another-run")
    with pytest.raises(PipelineFailed, match=words) as caught:
        write_run(folder, other, build_report(other), draft)
    assert "--resume" in caught.value.hint
    assert {n: (folder / n).read_bytes() for n in names(folder)} == before


def test_a_write_that_fails_in_an_empty_folder_leaves_it_empty(tmp_path, facts, draft, monkeypatch):
    def full(part, data):
        part.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output, "_write_part", full)
    with pytest.raises(PipelineFailed):
        write_run(tmp_path / "out", facts, build_report(facts), draft)
    assert names(tmp_path / "out") == set()


def test_a_folder_that_is_a_file_is_said_in_words(tmp_path, facts, draft):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(PipelineFailed, match="could not be written"):
        write_run(tmp_path / "out", facts, build_report(facts), draft)


def test_a_run_without_a_pair_still_leaves_its_files(tmp_path, facts):
    drops = [
        *(d for d in facts.drops if d.item not in {p.id for p in facts.pairs_written}),
        *(Drop(p.id, "quality", "x") for p in facts.pairs_written),
    ]
    none = dataclasses.replace(facts, pairs_kept=[], drops=drops)
    write_run(tmp_path, none, build_report(none), to_draft([], [], GENERATOR))
    assert (tmp_path / TRAIN).read_bytes() == b""
    assert len(rows(tmp_path / "rejected.jsonl")) == len(drops)


# -- the training set ---------------------------------------------------------------------------------------------------------------------


def test_train_jsonl_is_mistrals_chat_format_and_reads_back_as_the_draft(written, draft, facts):
    for row in rows(written / TRAIN):
        assert row.keys() == {"messages"}
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
        assert all(m.keys() == {"role", "content"} for m in row["messages"])
    read = read_jsonl((written / TRAIN).read_text(encoding="utf-8"), TRAIN, Defaults(origin="synthesised", generator=GENERATOR))
    assert [e.messages for e in read.examples] == [e.messages for e in draft.examples]
    assert len(read.examples) == len(facts.pairs_kept)
    assert any(len(e.messages) == 6 for e in read.examples)


@pytest.mark.parametrize(
    "turns", [(), (("user", "Q"),), (("assistant", "A"), ("user", "Q")), (("system", "S"), ("user", "Q"), ("assistant", "A"))]
)
def test_a_conversation_that_is_none_is_never_written(draft, turns):
    broken = dataclasses.replace(draft, examples=(ExampleDraft(turns, "synthesised"),))
    with pytest.raises(ValueError, match="by turns"):
        list(train_rows(broken))


def test_provenance_has_a_row_per_line_keyed_by_its_turns(written, facts):
    trained, provenance = rows(written / TRAIN), rows(written / "train.provenance.jsonl")
    assert [digest(row["messages"]) for row in trained] == [row["sha256"] for row in provenance]
    by_id = {f.id: f for f in facts.findings_all}
    pairs = {p.id: p for p in facts.kept_pairs}
    for row in provenance:
        assert sorted(f["id"] for f in row["findings"]) == sorted(pairs[row["pair"]].findings)
        for cited in row["findings"]:
            source = by_id[cited["id"]]
            assert (cited["url"], cited["doi"], cited["extent"], cited["role"]) == (source.url, source.doi, source.extent, source.role)
            assert (cited["class"], cited["rule"], cited["document_sha256"]) == (source.class_, source.rule, source.document_sha256)
        assert row["origin"] == "synthesised"
        assert row["generator"] == GENERATOR
    assert sum(len(row["neighbours"]) for row in provenance) == sum(n["item"] in pairs for n in [*facts.review, *facts.guarded])


def test_everything_left_out_is_there_with_reason_and_content(written, facts):
    found = rows(written / "rejected.jsonl")
    assert [(r["item"], r["step"], r["reason"], r["score"]) for r in found] == [(d.item, d.step, d.reason, d.score) for d in facts.drops]
    assert {r["what"] for r in found if r["content"] is None} == {"page"}
    texts = {f.id: f.text for f in facts.findings_all}
    assert all(r["content"]["text"] == texts[r["item"]] for r in found if r["what"] == "finding")
    assert {r["what"] for r in found} == {"page", "finding", "pair"}


def test_review_holds_near_pairs_with_both_texts_and_flagged_findings(written, facts):
    found = rows(written / "review.jsonl")
    assert [r["why"] for r in found].count("near") == len(facts.review)
    assert all(r["text"] and r["neighbour_text"] for r in found if r["why"] != "flagged")
    assert [r["item"] for r in found if r["why"] == "flagged"] == [f.id for f in facts.findings_all if f.flags]


def test_raw_json_holds_every_value(written, facts):
    raw = json.loads((written / "raw.json").read_bytes())
    assert sorted(f["id"] for f in raw["findings"]) == sorted(f.id for f in facts.findings_all)
    assert raw["pairs_kept"] == [p.id for p in facts.kept_pairs]
    assert (len(raw["cells"]), len(raw["queries"]), raw["domain"]["name"]) == (60, 3, "Dr. Elena")


def test_characters_that_files_trip_over_survive(tmp_path, facts):
    odd = dataclasses.replace(facts.findings_all[0], text="half \ud800 of a pair,\u2028a line,\x85and another")
    changed = dataclasses.replace(facts, findings_all=[odd, *facts.findings_all[1:]])
    write_run(tmp_path, changed, build_report(changed), to_draft(changed.kept_pairs, changed.used_findings, GENERATOR))
    raw = json.loads((tmp_path / "raw.json").read_bytes())
    assert odd.text in [f["text"] for f in raw["findings"]]
    assert len((tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()) == len(facts.drops)


# -- what the registry gets ---------------------------------------------------------------------------------------------------------------


def test_the_draft_registers_and_says_what_the_pairs_rest_on(db, draft, facts):
    add_advisor(db)
    with db.transaction() as session:
        elena = advisors.get(session, "elena", lock=True)
        made = datasets.register(session, elena, draft, actor=ACTOR)
        assert (made.created, made.duplicates, made.notes) == (True, 0, ())
        assert made.dataset.examples_total == len(facts.pairs_kept)
        summary = datasets.summary(session, made.dataset)
        assert summary.origins == {"synthesised": len(facts.pairs_kept)}
        assert summary.without_source == sum(not p.findings for p in facts.kept_pairs)
        report = build_report(facts).as_json()
        assert summary.sources_by_class == {row["class"]: row["works"] for row in report["sources"]["by_class"]}
        again = datasets.register(session, elena, draft, actor=ACTOR)
        assert (again.created, again.dataset.sha256, again.notes) == (False, made.dataset.sha256, ())


def test_links_say_extent_bytes_time_and_role(draft, facts):
    findings = {f.id: f for f in facts.findings_all}
    for example, p in zip(draft.examples, facts.kept_pairs, strict=True):
        assert (example.origin, example.generator, example.category) == ("synthesised", GENERATOR, p.category)
        said = {(link.role, link.document.extent, link.document.sha256, link.document.retrieved_at.isoformat()) for link in example.links}
        given = [findings[name] for name in p.findings]
        assert said == {(f.role, f.extent, f.document_sha256, f.retrieved_at) for f in given}
    assert {link.role for example in draft.examples for link in example.links} == {"answer", "question"}


def test_citations_are_ones_that_an_import_would_take(draft):
    items = [
        {**s.csl, "URL": s.identifiers[-1].url, "custom": {"class": s.class_, "review_status": s.review_status}} for s in draft.sources
    ]
    assert len(read_csl(json.dumps(items), "sources.json")) == len(draft.sources)


def source(number, **more):
    return finding(number, **more)


def test_findings_of_one_work_become_one_source_named_by_its_doi():
    one = source(3, id="f_1", doi="10.1000/X", url="https://a.example/paper")
    two = source(3, id="f_2", doi=None, url="https://a.example/paper#part", csl={})
    three = source(3, id="f_3", doi="https://doi.org/10.1000/x", url="https://other.example/mirror")
    draft = to_draft([pair(CELL, ("f_1", "f_2", "f_3"))], [one, two, three], GENERATOR)
    (only,) = draft.sources
    assert [i.key for i in only.identifiers] == ["doi:10.1000/x", "https://a.example/paper", "https://other.example/mirror"]
    assert {link.identifier.key for link in draft.examples[0].links} == {"doi:10.1000/x"}
    assert only.csl["author"][0]["family"] == "Oerlemans"


def test_a_page_with_two_papers_names_neither():
    papers = [source(3, id=f"f_{i}", doi=f"10.1000/{i}", url="https://list.example/") for i in (1, 2)]
    page = source(1, id="f_3", doi=None, url="https://list.example/")
    keys = [[i.key for i in work.identifiers] for work in works([*papers, page])]
    assert keys == [["doi:10.1000/1"], ["doi:10.1000/2"], ["https://list.example/"]]


@pytest.mark.parametrize(
    ("classes", "reviews", "taken"),
    [
        (("academic", "professional"), ("peer_reviewed", "peer_reviewed"), ("professional", "peer_reviewed")),
        (("unclassified", "institutional"), ("guideline", "unknown"), ("unclassified", "unknown")),
        (("clinical", "clinical"), ("editorial", "preprint"), ("clinical", "editorial")),
        (("academic", "gossip"), ("peer_reviewed", "peer_reviewed"), ("unclassified", "peer_reviewed")),
    ],
)
def test_a_disagreement_ends_at_the_stricter_word_and_is_noted(classes, reviews, taken):
    two = [source(1, id=f"f_{i}", class_=c, review_status=r) for i, (c, r) in enumerate(zip(classes, reviews, strict=True))]
    draft = to_draft([pair(CELL, ("f_0", "f_1"))], two, GENERATOR)
    assert (draft.sources[0].class_, draft.sources[0].review_status) == taken
    assert len(draft.notes) == (classes[0] != classes[1]) + (reviews[0] != reviews[1])
    assert all("the stricter" in note for note in draft.notes)


def test_a_document_without_an_address_is_no_source_but_its_pair_stays():
    local = source(1, id="f_1", url="file:notes.pdf", doi=None)
    draft = to_draft([pair(CELL, ("f_1",))], [local], GENERATOR)
    assert draft.sources == ()
    assert draft.examples[0].links == ()
    assert draft.notes == ("1 pair rests on 1 document without a public address, which is named in train.provenance.jsonl only",)


def test_a_pair_on_an_unknown_finding_is_a_fault():
    with pytest.raises(LookupError):
        to_draft([pair(CELL, ("f_ghost",))], [], GENERATOR)


def test_a_source_that_says_little_is_described_by_its_finding():
    bare = source(1, id="f_1", csl={}, title="A title\nin two lines", authors=("WHO",), published="2024-05-01")
    (only,) = to_draft([pair(CELL, ("f_1",))], [bare], GENERATOR).sources
    assert only.csl == {"type": "webpage", "title": "A title in two lines", "author": [{"literal": "WHO"}], "issued": {"raw": "2024-05-01"}}


@pytest.mark.parametrize("when", ["", "yesterday", "2026-13-01"])
def test_a_time_that_is_none_is_not_recorded(when):
    (link,) = to_draft([pair(CELL, ("f_1",))], [source(1, id="f_1", retrieved_at=when)], GENERATOR).examples[0].links
    assert link.document.retrieved_at is None


# -- research.md --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, (with) 'marks' - and 3.5%", "plain words, (with) 'marks' - and 3.5%"),
        ("<script>x</script>", "\\<script\\>x\\</script\\>"),
        ("**b** _i_ `c` [a](https://x.example)", "\\*\\*b\\*\\* \\_i\\_ \\`c\\` \\[a\\](https\\://x.example)"),
        ("# no heading", "\\# no heading"),
        ("- no list", "\\- no list"),
        ("12. no list", "12\\. no list"),
        ("3) no list", "3\\) no list"),
        ("www.x.example a@b.example", "www\\.x.example a\\@b.example"),
        ("&lt;b&gt;\nnext | cell", "\\&lt;b\\&gt; next \\| cell"),
        ("back\\slash ~~s~~ $m$", "back\\\\slash \\~\\~s\\~\\~ \\$m\\$"),
        ("\u202ergnirts\u200b", "rgnirts"),
        ("", ""),
    ],
)
def test_markdown_of_the_web_is_text(text, shown):
    assert markdown(text) == shown


def test_research_groups_by_area_and_question_and_numbers_its_sources(written, facts):
    text = (written / "research.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## early signs",
        "## boundaries at work",
        "## return to work",
        "## Bibliography",
    ]
    entries = re.findall(r"^(\d+)\. ", text, re.MULTILINE)
    assert entries == [str(n) for n in range(1, len(works(facts.kept_findings)) + 1)]
    cited = {int(n) for n in re.findall(r"^\\\[(\d+)\\\]", text, re.MULTILINE)}
    assert cited == set(map(int, entries))
    assert text.count("\n> Passage ") == len(facts.findings_kept)
    assert "Oerlemans, W., & Bakker, A. B. (2014, March)." in text
    assert "Read: the abstract (2026-11-20); Academic research; review status: peer-reviewed; cited" in text
    assert "is an AI character, not a licensed professional" in text
    assert "no person has checked them" in text


def test_no_markup_of_a_page_reaches_research(facts):
    text = research(facts)
    assert not re.search(r"(?<!\\)<(?!https?://[^<>\s]+>)", text)
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)!\[", text)
    quotes = [line for line in text.splitlines() if line.startswith("> ")]
    assert all(len(line) < 1400 for line in quotes)


def test_a_run_without_findings_says_so(facts):
    empty = dataclasses.replace(facts, findings_all=[], findings_kept=[], pairs_written=[], pairs_kept=[], drops=[], domain=None, review=[])
    assert research(empty).endswith("## Bibliography\n\nNo finding was kept.\n")
    assert list(provenance_rows(empty)) == []
