"""The files of a run, and its training set as the registry takes it. What is in them was decided before; nothing is judged here.

Rules:
- A file is whole or absent: all of them are written beside their places and flushed, then renamed; manifest.json comes last, so where it is, everything is.
  When the disk is full, or a write fails in another way, what stood in the folder before is still there.
- train.jsonl holds conversations alone; everything about a pair is in train.provenance.jsonl, keyed by the digest of its turns.
- The order is that of cells and ids, never of arrival: the same pairs give the same files, but for times.
- A finding's text is quoted in research.md so that it stays text: no markup, no link, no HTML of a page gets through.
- A document without a public address is no source: its pairs are kept, and a note says that their catalogue entry does not name it.
"""

import datetime as dt
import errno
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lineage import citations
from lineage.claims import counted, disclosure
from pipeline.report import Report, RunFacts, stream_of, words_of
from pipeline.report_page import page
from pipeline.values import Finding, Pair, PipelineFailed
from pipeline.works import Work, domain, one_line, showable, works
from registry.imports import DatasetDraft, DocumentDraft, ExampleDraft, Link, SourceDraft
from registry.manifest import FileEntry, digest, digest_bytes
from registry.vocabulary import CLASS_LABELS, EXTENTS

FORMAT = "pipeline-run/1"
MANIFEST = "manifest.json"
TRAIN = "train.jsonl"
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|~#$]|&(?=[#A-Za-z]))")
_LINK_STARTS = re.compile(r"(?i)(:)(?=//)|(?<=www)(\.)|(?<=mailto)(:)|(@)")
_LINE_STARTS = re.compile(r"^([-+=]|\d+(?=[.)]))")
_READ_WORDS = {"full_text": "the full text", "abstract": "the abstract", "excerpt": "an excerpt", "metadata_only": "title and data only"}


# -- the training set ---------------------------------------------------------------------------------------------------------------------


def to_draft(pairs: Iterable[Pair], findings: Iterable[Finding], generator: str) -> DatasetDraft:
    """The pairs as the registry imports them, ordered by cell and id, each tied to the documents of its findings. Only sources that a pair names are described.

    Findings of one source become one SourceDraft, named by its DOI first and its URL second; where they disagree about class or review status the stricter
    word holds and a note says so. Raises LookupError for a pair that rests on a finding that is not given: a fault of the pipeline.
    """
    ordered = sorted(pairs, key=lambda p: (p.cell, p.id))
    given = {f.id: f for f in findings}
    used = works([given[name] for name in sorted({name for pair in ordered for name in pair.findings})])
    home = {f.id: work for work in used for f in work.findings}
    examples = tuple(
        ExampleDraft(
            messages=turns(pair), origin="synthesised", category=pair.category, generator=generator, links=_links(pair, home, given)
        )
        for pair in ordered
    )
    sources = tuple(
        SourceDraft(work.identifiers, work.csl, work.class_, work.review_status, _documents(work)) for work in used if work.identifiers
    )
    return DatasetDraft(examples, sources, _notes(ordered, used, home))


def turns(pair: Pair) -> tuple[tuple[str, str], ...]:
    """A pair's turns, spelled as an import of train.jsonl spells them: NFC, plain line breaks, nothing invisible that the registry refuses."""
    return tuple((role, showable(content).strip()) for role, content in pair.messages)


def _links(pair: Pair, home: Mapping[str, Work], given: Mapping[str, Finding]) -> tuple[Link, ...]:
    links = [
        Link(home[name].identifiers[0], given[name].role, _document(given[name]))
        for name in sorted(pair.findings)
        if home[name].identifiers
    ]
    return tuple(dict.fromkeys(links))


def _document(finding: Finding) -> DocumentDraft:
    return DocumentDraft(finding.extent if finding.extent in EXTENTS else None, _moment(finding.retrieved_at), finding.document_sha256)


def _documents(work: Work) -> tuple[DocumentDraft, ...]:
    return tuple(dict.fromkeys(_document(f) for f in work.findings))


def _moment(text: str) -> dt.datetime | None:
    """The time of reading in UTC; what is no time is not recorded."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _notes(pairs: Sequence[Pair], used: Sequence[Work], home: Mapping[str, Work]) -> tuple[str, ...]:
    notes = [note for work in used for note in work.notes]
    nameless = sum(not work.identifiers for work in used)
    if nameless:
        resting = sum(any(not home[name].identifiers for name in pair.findings) for pair in pairs)
        rest = "rests" if resting == 1 else "rest"
        documents = f"{counted(nameless, 'document')} without a public address"
        notes.append(f"{counted(resting, 'pair')} {rest} on {documents}, which is named in train.provenance.jsonl only")
    return tuple(notes)


# -- the files ----------------------------------------------------------------------------------------------------------------------------


def write_run(folder: Path, facts: RunFacts, report: Report, draft: DatasetDraft) -> list[Path]:
    """Write every file of the run and return their paths, manifest.json last. `draft` is `to_draft` of the kept pairs.

    Raises PipelineFailed with a sentence where the disk is full or the folder cannot be written; then no file of this run is there.
    """
    contents = {
        TRAIN: _lines(train_rows(draft)),
        "train.provenance.jsonl": _lines(provenance_rows(facts)),
        "raw.json": _json(raw(facts)),
        "rejected.jsonl": _lines(rejected_rows(facts)),
        "review.jsonl": _lines(review_rows(facts)),
        "research.md": _utf8(research(facts)),
        "report.json": _json(report.as_json()),
        "report.html": _utf8(page(report)),
    }
    files = [FileEntry(name, digest_bytes(data), len(data)) for name, data in sorted(contents.items())]
    contents[MANIFEST] = _json(
        {
            "format": FORMAT,
            "run": facts.run_id,
            "advisor": facts.advisor,
            "status": facts.status,
            "config": facts.config.digest,
            "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in files],
        }
    )
    try:
        return _write_all(folder, contents)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> PipelineFailed:
    kept = "Everything that was paid for is in the run's ledger, so nothing is paid for twice."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PipelineFailed(
            f"The disk is full: the files of the run could not be written to {folder}, and none were left half-written.",
            hint=f"Make room and run the same command with --resume. {kept}",
        )
    return PipelineFailed(
        f"The files of the run could not be written to {folder}: {error.strerror or error}.",
        hint=f"Check the folder's permissions and run the same command with --resume. {kept}",
    )


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """All files or none: what may fail for want of room happens before the first rename. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {folder / name: folder / f"{name}.part" for name in contents}
    try:
        for part, data in zip(parts.values(), contents.values(), strict=True):
            _write_part(part, data)
            part.chmod(0o644)
        (folder / MANIFEST).unlink(missing_ok=True)  # from here to the last rename the folder is not complete, and does not say so
        for path, part in parts.items():
            part.replace(path)
    except OSError:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    return list(parts)


def _write_part(part: Path, data: bytes) -> None:
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush the renames themselves; systems that cannot open a folder keep them anyway."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _json(value: Any) -> bytes:
    return _encoded(value, indent=1) + b"\n"


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(_encoded(row) + b"\n" for row in rows)


def _encoded(value: Any, indent: int | None = None) -> bytes:
    """JSON in UTF-8. Raises ValueError for a number that is not finite. Half a surrogate, which UTF-8 cannot hold, is written as an escape."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    # Many readers split a file at these, which JSON allows inside a text.
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, indent=indent).encode()


# -- rows ---------------------------------------------------------------------------------------------------------------------------------


def train_rows(draft: DatasetDraft) -> Iterable[dict[str, Any]]:
    """Mistral's chat format: turns of user and assistant and nothing else. Raises ValueError for a conversation that is none."""
    for number, example in enumerate(draft.examples, 1):
        roles = [role for role, _ in example.messages]
        if not roles or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(f"Expected turns of user and assistant by turns, the assistant last; pair {number} has {roles}.")
        yield {"messages": [{"role": role, "content": content} for role, content in example.messages]}


def provenance_rows(facts: RunFacts) -> Iterable[dict[str, Any]]:
    """A row per kept pair, in the order of train.jsonl: its cell, what it rests on, the call that wrote it, its nearest neighbours."""
    cells = {cell.id: cell for cell in facts.cells}
    findings = {f.id: f for f in facts.findings_all}
    config = facts.config.digest
    near: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for kind, items in (("review", facts.review), ("guarded", facts.guarded)):
        for item in items:
            near[item["item"]].append({"neighbour": item["neighbour"], "score": item["score"], "list": kind})
    for pair in facts.kept_pairs:
        cell = cells[pair.cell]
        yield {
            "sha256": digest([{"role": role, "content": content} for role, content in turns(pair)]),
            "pair": pair.id,
            "cell": cell.id,
            "category": pair.category,
            "persona": cell.persona,
            "scenario": cell.scenario,
            "technique": pair.technique,
            "planned_technique": cell.technique,
            "voice": cell.voice,
            "seed": cell.seed,
            "origin": "synthesised",
            "findings": [_cited(findings[name]) for name in sorted(pair.findings)],
            "call": pair.call,
            "model": facts.config.model,
            "generator": facts.generator,
            "neighbours": near[pair.id],
            "run": facts.run_id,
            "config": config,
        }


def _cited(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "url": finding.url,
        "title": finding.title,
        "doi": finding.doi,
        "retrieved_at": finding.retrieved_at,
        "document_sha256": finding.document_sha256,
        "extent": finding.extent,
        "role": finding.role,
        "class": finding.class_,
        "review_status": finding.review_status,
        "rule": finding.rule,
        "call": finding.call,
    }


def raw(facts: RunFacts) -> dict[str, Any]:
    """Everything that the run made, kept or not."""
    return {
        "format": FORMAT,
        "run": facts.run_id,
        "advisor": facts.advisor,
        "config": facts.config.as_json(),
        "domain": facts.domain.as_json() if facts.domain else None,
        "queries": [query.as_json() for query in facts.queries],
        "findings": [finding.as_json() for finding in sorted(facts.findings_all, key=lambda f: f.id)],
        "findings_kept": sorted(facts.findings_kept),
        "cells": [cell.as_json() for cell in sorted(facts.cells, key=lambda c: c.id)],
        "pairs": [pair.as_json() for pair in sorted(facts.pairs_written, key=lambda p: (p.cell, p.id))],
        "pairs_kept": [pair.id for pair in facts.kept_pairs],
        "drops": [drop.as_json() for drop in facts.drops],
        "gaps": [gap.as_json() for gap in facts.gaps],
    }


def rejected_rows(facts: RunFacts) -> Iterable[dict[str, Any]]:
    """A row per thing that was left out, with its reason, its evidence and, where it became a value at all, its content."""
    values: dict[str, Any] = {}
    for items in (facts.queries, facts.findings_all, facts.cells, facts.pairs_written):
        values |= {item.id: item for item in items}
    stream = stream_of(facts)
    what = {"queries": "query", "findings": "finding", "cells": "cell", "pairs": "pair"}
    for drop in facts.drops:
        content = values[drop.item].as_json() if drop.item in values else None
        yield {
            "what": "page" if content is None and domain(drop.item) else what[stream(drop)],
            "item": drop.item,
            "step": drop.step,
            "reason": drop.reason,
            "evidence": drop.detail,
            "neighbour": drop.neighbour,
            "score": drop.score,
            "content": content,
        }


def review_rows(facts: RunFacts) -> Iterable[dict[str, Any]]:
    """What a person should look at: near pairs that were kept, with both texts, and findings that a safety rule flagged."""
    findings = {f.id: f for f in facts.findings_all}
    texts = {p.id: p.messages[0][1] for p in facts.pairs_written if p.messages} | {f.id: f.text for f in findings.values()}
    for why, items in (("near", facts.review), ("near_but_contrary", facts.guarded)):
        for near in items:
            yield {
                "why": why,
                "item": near["item"],
                "neighbour": near["neighbour"],
                "score": near["score"],
                "text": texts.get(near["item"]),
                "neighbour_text": texts.get(near["neighbour"]),
            }
    for finding in sorted(findings.values(), key=lambda f: f.id):
        if finding.flags:
            yield {"why": "flagged", "item": finding.id, "rules": list(finding.flags), "content": finding.as_json()}


# -- research.md --------------------------------------------------------------------------------------------------------------------------


def research(facts: RunFacts) -> str:
    """What was found, by area and question, with quotes and a numbered bibliography in the manner of APA."""
    kept = facts.kept_findings
    listed = sorted(works(kept), key=lambda w: (citations.citation_text(w.citation).casefold(), w.key))
    numbers = {f.id: n for n, work in enumerate(listed, 1) for f in work.findings}
    blocks = [_opening(facts, kept, listed), *_by_question(facts, kept, numbers), "## Bibliography"]
    pairs = Counter(n for pair in facts.kept_pairs for n in {numbers[name] for name in pair.findings})
    blocks += [_entry(n, work, pairs[n]) for n, work in enumerate(listed, 1)] or ["No finding was kept."]
    return "\n\n".join(blocks) + "\n"


def _opening(facts: RunFacts, kept: Sequence[Finding], listed: Sequence[Work]) -> str:
    name = facts.domain.name if facts.domain else facts.advisor
    subject = f" on {markdown(facts.domain.primary_domain)}" if facts.domain else ""
    extents = Counter({f.document_sha256: f.extent for f in kept}.values())
    read = ", ".join(f"{counted(extents[e], 'document')} by {_READ_WORDS[e]}" for e in EXTENTS if extents[e])
    left = len(facts.findings_all) - len(kept)
    more = f" {counted(left, 'more passage')} {'was' if left == 1 else 'were'} left out; rejected.jsonl says why." if left else ""
    extent = f" How much was read: {read}." if read else ""
    used = len(facts.used_findings)
    return (
        f"# Research for {markdown(name)}{subject}\n\n{markdown(disclosure(name))}\n\n"
        f"{counted(len(kept), 'passage')} of {counted(len(listed), 'source')} passed the source standards, which are rules applied by programs; no person has "
        f"checked them yet. Example conversations rest on {used:,} of them.{more}{extent} Quotes are as the pages gave them, cut where they are long."
    )


def _by_question(facts: RunFacts, kept: Sequence[Finding], numbers: Mapping[str, int]) -> list[str]:
    by_query: dict[str, list[Finding]] = defaultdict(list)
    for finding in kept:
        by_query[finding.query].append(finding)
    known = {query.id: query for query in facts.queries}
    areas: dict[str, list[str]] = defaultdict(list)
    for name in sorted(by_query):
        areas[known[name].area if name in known else ""].append(name)
    order = list(facts.domain.expertise_areas) if facts.domain else []
    blocks = []
    for area in sorted(areas, key=lambda a: (a == "", order.index(a) if a in order else len(order), a)):
        blocks.append(f"## {markdown(area) if area else 'Documents and other material'}")
        for name in areas[area]:
            query = known.get(name)
            blocks.append(f"### {markdown(query.text)} ({words_of(query.kind)})" if query else f"### {markdown(name or 'Given documents')}")
            blocks += [_quoted(f, numbers[f.id]) for f in sorted(by_query[name], key=lambda f: (numbers[f.id], f.id))]
    return blocks


def _quoted(finding: Finding, number: int) -> str:
    title = markdown(finding.title or "Without a title", 200)
    title += "" if title.endswith((".", "?", "!", "…")) else "."
    use = " Shaped questions only." if finding.role == "question" else ""
    lines = [f"> {markdown(finding.text, 600)}", f"\\[{number}\\] {title}{use}"]
    lines += [f"- {markdown(point, 300)}" for point in finding.key_findings]
    return "\n\n".join([lines[0], lines[1]]) + ("\n\n" + "\n".join(lines[2:]) if lines[2:] else "")


def _entry(number: int, work: Work, pairs: int) -> str:
    """One numbered line: the citation, the address, how much was read and when, class and review status with the rule that decided."""
    bare = citations.Citation(**{**vars(work.citation), "url": None, "doi": None})
    main = work.identifiers[0].url if work.identifiers else None
    read = ", ".join(_READ_WORDS[e] for e in EXTENTS if any(f.extent == e for f in work.findings))
    when = sorted({f.retrieved_at[:10] for f in work.findings if f.retrieved_at})
    dates = f"{when[0]} to {when[-1]}" if len(when) > 1 else when[0] if when else "time of reading not recorded"
    rules = ", ".join(sorted({f.rule for f in work.findings}))
    cited = max((f.citation_count for f in work.findings if f.citation_count is not None), default=None)
    about = [
        f"Read: {read} ({dates})" if read else f"Read: {dates}",
        CLASS_LABELS[work.class_],
        f"review status: {words_of(work.review_status)}",
        *([f"cited {counted(cited, 'time')}"] if cited is not None else []),
        counted(pairs, "pair"),
        f"rule {rules}",
    ]
    address = f" <{main}>" if main else " No public address."
    return f"{number}. {markdown(citations.citation_text(bare), 900)}{address}  \n   {markdown('; '.join(about))}."


def markdown(text: str, limit: int = 400) -> str:
    """Text of the web as one line of Markdown that shows as the same text: no emphasis, heading, list, link, image or HTML comes of it."""
    line = _MARKUP.sub(r"\\\1", one_line(text, limit))
    line = _LINK_STARTS.sub(lambda match: "\\" + match.group(), line)
    return _LINE_STARTS.sub(lambda match: f"\\{match.group()}" if not match.group()[0].isdigit() else f"{match.group()}\\", line)
