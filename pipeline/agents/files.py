"""The files agent: documents that a person hands over with a citation, read here and cut into passages.

Rules: a document needs a citation in `sources.json` beside it (CSL-JSON, each entry with "file") that names who answers for it (an author or a publisher)
and where it is published (a URL or a DOI); without one it never carries an answer and is not even read. A file that cannot be read is a gap, the others
go on. A document that says of itself that a model wrote it carries nothing. `full_text` is only said where every passage is used. If any part of a document, its title or its hidden text is addressed to a model, every finding of it is flagged: whoever plants one line is not
to be trusted with the rest.

What it does not know: whether the citation belongs to the file. Whoever brings both vouches for that.
"""

import asyncio
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import safety
from pipeline.ports import Progress, Watcher
from pipeline.readers import DEFAULT_LIMITS, FORMATS, KNOWN, MAX_PASSAGES, Limits, ReadDocument, Unreadable, passages, read_document
from pipeline.standards import Standards
from pipeline.values import AgentResult, Drop, Finding, Gap, finding_id, text_sha256
from registry.errors import Invalid
from registry.identifiers import Identifier, identify

SOURCES = "sources.json"
AT_ONCE = 2  # readers that run beside each other: each may take a core and 1 GiB
MAX_SOURCES_BYTES = 20_000_000
_HOW = (
    f"Add an entry to {SOURCES} beside it, such as "
    '{"file": "name.pdf", "type": "article-journal", "title": "...", "author": [{"family": "...", "given": "..."}], "DOI": "10...."} '
    '(or "publisher" for an author, "URL" for a DOI).'
)


async def research(
    paths: Sequence[Path],
    citations: Mapping[str, Mapping[str, Any]],
    standards: Standards,
    watch: Watcher,
    *,
    agent: str = "files",
    now: str,
    limits: Limits = DEFAULT_LIMITS,
) -> AgentResult:
    """Findings of all documents, in the order of `paths`; `now` is recorded as the time of reading (ISO 8601, UTC). Raises nothing that a file can cause."""
    room = asyncio.Semaphore(AT_ONCE)
    done: list[AgentResult] = []

    async def one(path: Path) -> AgentResult:
        async with room:
            result = await _document(path, citations, standards, agent, now, limits)
        done.append(result)
        watch(_progress(agent, "running", path.name, done, len(paths)))
        return result

    watch(_progress(agent, "running", "", done, len(paths)))
    results = _without_twins(await asyncio.gather(*(one(path) for path in paths)), agent)
    whole = AgentResult(
        tuple(finding for result in results for finding in result.findings),
        tuple(gap for result in results for gap in result.gaps),
        tuple(drop for result in results for drop in result.drops),
    )
    watch(_progress(agent, "failed" if paths and not whole.findings else "done", "", results, len(paths)))
    return whole


def _progress(agent: str, state: str, message: str, results: Sequence[AgentResult], total: int) -> Progress:
    return Progress(
        agent,
        state,
        message,
        done=len(results),
        total=total,
        kept=sum(len(result.findings) for result in results),
        dropped=sum(len(result.drops) for result in results),
        failed=sum(len(result.gaps) for result in results),
    )


def _without_twins(results: Sequence[AgentResult], agent: str) -> list[AgentResult]:
    """The same words of the same work twice are one document; the later file is dropped and names the earlier finding."""
    seen: dict[str, str] = {}
    kept = []
    for result in results:
        twins = [f for f in result.findings if f.id in seen]
        if result.findings and len(twins) == len(result.findings):
            first = result.findings[0]
            why = "the same text under the same citation was read from another file"
            kept.append(AgentResult((), (), (Drop(first.title, agent, "document.duplicate", why, neighbour=seen[first.id]),)))
            continue
        own = tuple(f for f in result.findings if f.id not in seen)
        seen.update({f.id: f.id for f in own})
        kept.append(AgentResult(own, result.gaps, result.drops))
    return kept


async def _document(
    path: Path, citations: Mapping[str, Mapping[str, Any]], standards: Standards, agent: str, now: str, limits: Limits
) -> AgentResult:
    csl = _citation(path, citations)
    place = _place(csl) if csl is not None else None
    if csl is None or place is None or not _accountable(csl):
        return AgentResult(drops=(Drop(path.name, agent, "document.no-citation", _missing(path.name, csl, place)),))
    verdict = standards.document(csl)
    if verdict.role is None:
        return AgentResult(drops=(Drop(path.name, agent, verdict.rule, f"{path.name}: {verdict.why}"),))
    try:
        document = await asyncio.to_thread(read_document, path, limits=limits)
    except Unreadable as fault:
        words = f"{fault.message} {fault.hint}" if fault.hint else fault.message
        return AgentResult(gaps=(Gap(agent, f"document.{fault.reason}", words),))
    # A book takes the safety rules seconds; the other agents must not wait for that.
    return await asyncio.to_thread(_result, path, document, csl, place, standards, agent, now)


def _missing(name: str, csl: Mapping[str, Any] | None, place: Identifier | None) -> str:
    """What the citation lacks, and how to add it."""
    if csl is None:
        return f"{name} has no citation, so it carries no answers. {_HOW}"
    lacks = [*(["a URL or a DOI"] if place is None else []), *(["an author or a publisher"] if not _accountable(csl) else [])]
    return f"The citation of {name} lacks {' and '.join(lacks)}, so it carries no answers. {_HOW}"


def _result(
    path: Path, document: ReadDocument, csl: Mapping[str, Any], place: Identifier, standards: Standards, agent: str, now: str
) -> AgentResult:
    verdict = standards.document(csl, "\n\n".join([document.title or "", document.text]))
    if verdict.role is None:
        return AgentResult(drops=(Drop(path.name, agent, verdict.rule, f"{path.name}: {verdict.why}"),))
    title = " ".join(safety.clean(str(csl.get("title") or document.title or path.stem)).split())
    # A page may be anybody's; in captions, notes, PDFs and books people speak, and one of them may be called Claude.
    speakers = FORMATS.get(path.suffix.lower()) != "html"
    seen = safety.findings("\n\n".join([title, document.title or "", document.text]), speakers=speakers)
    unseen = safety.findings(document.hidden)
    flags = tuple(sorted({name for name, _ in (*seen, *unseen)}))
    sha256 = text_sha256(document.text)
    facts = {**csl, "title": title}
    used = tuple(dict.fromkeys(passages(document.text)))
    whole = document.extent == "full_text" and len(passages(document.text, limit=MAX_PASSAGES + 1)) <= MAX_PASSAGES
    findings = tuple(
        Finding(
            id=finding_id(place.url, text, verdict.role),
            url=place.url,
            title=title,
            text=text,
            agent=agent,
            query="",
            retrieved_at=now,
            extent="full_text" if whole else "excerpt",
            document_sha256=sha256,
            role=verdict.role,
            class_=verdict.class_,
            review_status=verdict.review_status,
            rule=verdict.rule,
            authors=_authors(csl),
            published=_published(csl),
            doi=place.doi,
            csl=facts,
            flags=flags,
        )
        for text in used
    )
    return AgentResult(findings, _flag_gaps(path.name, agent, seen, unseen), ())


def _flag_gaps(name: str, agent: str, seen: Sequence[tuple[str, str]], unseen: Sequence[tuple[str, str]]) -> tuple[Gap, ...]:
    """What was planted where, for the report; the passages stay out of use until a person looked."""
    return tuple(
        Gap(
            agent,
            "document.instructions",
            f"{name}: {where} is addressed to a model ({rule}: {evidence!a}); none of it is used until a person looked.",
        )
        for where, hits in (("its text", seen), ("text it hides from readers", unseen))
        for rule, evidence in hits[:1]
    )


# --------------------------------------------------------------------------------------------------------------------------- citations


def read_citations(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> CSL-JSON item without its file field, from `sources.json` in the folder; empty where there is none.

    The file is named by "file", or by "file" under "custom", relative to the folder. Raises Invalid where the file is no list of citations.
    """
    path = (folder if folder.is_dir() else folder.parent) / SOURCES
    try:
        if path.stat().st_size > MAX_SOURCES_BYTES:
            raise Invalid(f"{SOURCES}: expected at most {MAX_SOURCES_BYTES // 1_000_000} MB; the file is larger.")
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as fault:
        raise Invalid(f"{SOURCES} could not be read ({fault.strerror or type(fault).__name__}).", hint="Check its rights.") from None
    try:
        items = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # bytes that are no UTF-8 included
        raise Invalid(f"{SOURCES}: expected a list of citations in CSL-JSON; it is not valid JSON in UTF-8.", hint=_HOW) from None
    if not isinstance(items, list):
        raise Invalid(f"{SOURCES}: expected a list of citations in CSL-JSON; found something else at the top.", hint=_HOW)
    found: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(items, 1):
        name, csl = _named(item, number)
        if name in found:
            raise Invalid(f"{SOURCES}: two entries are for the file {name[:100]!a}; keep one.")
        found[name] = csl
    return found


def _named(item: Any, number: int) -> tuple[str, dict[str, Any]]:
    if not isinstance(item, dict):
        raise Invalid(f"{SOURCES}: entry {number} is no citation (expected an object).", hint=_HOW)
    custom = item.get("custom")
    own = dict(custom) if isinstance(custom, dict) else {}
    name = item.get("file") or own.pop("file", None)
    if not isinstance(name, str) or not name.strip():
        raise Invalid(f'{SOURCES}: entry {number} names no file (expected "file": "name.pdf").', hint=_HOW)
    csl = {key: value for key, value in item.items() if key not in ("file", "custom", "id")}
    return _name(name), {**csl, "custom": own} if own else csl


def _name(text: str) -> str:
    """A file's name as it is compared: macOS writes accents apart, others together."""
    return unicodedata.normalize("NFC", text.strip().replace("\\", "/").removeprefix("./"))


def _citation(path: Path, citations: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """By the longest end of its path that an entry names: 'books/a.pdf' before 'a.pdf'."""
    parts = path.parts
    return next((citations[name] for name in (_name("/".join(parts[i:])) for i in range(len(parts))) if name in citations), None)


def _place(csl: Mapping[str, Any]) -> Identifier | None:
    """Where the work is published: its DOI, else its URL; None where neither can be read."""
    for key in ("DOI", "URL"):
        value = csl.get(key)
        if isinstance(value, str) and value.strip():
            try:
                return identify(value)
            except Invalid:
                continue
    return None


def _accountable(csl: Mapping[str, Any]) -> bool:
    publisher = csl.get("publisher")
    return bool(_authors(csl)) or (isinstance(publisher, str) and bool(publisher.strip()))


def _authors(csl: Mapping[str, Any]) -> tuple[str, ...]:
    people = csl.get("author")
    names = [_person(person) for person in people] if isinstance(people, list) else []
    return tuple(name for name in names if name)


def _person(person: Any) -> str:
    if isinstance(person, str):
        return " ".join(safety.clean(person).split())
    if not isinstance(person, dict):
        return ""
    parts = [person.get("literal")] if person.get("literal") else [person.get("given"), person.get("family")]
    return " ".join(" ".join(safety.clean(part).split()) for part in parts if isinstance(part, str) and part.strip())


def _published(csl: Mapping[str, Any]) -> str | None:
    """The date as ISO 8601, as exact as it was given; None where it cannot be read."""
    issued = csl.get("issued")
    parts = issued.get("date-parts") if isinstance(issued, dict) else None
    first = parts[0] if isinstance(parts, list) and parts else None
    try:
        numbers = [int(part) for part in first[:3]] if isinstance(first, list) else []
    except (TypeError, ValueError):
        return None
    return "-".join(f"{n:04d}" if i == 0 else f"{n:02d}" for i, n in enumerate(numbers)) or None


# ------------------------------------------------------------------------------------------------------------------------------- files


def list_documents(place: Path, *, others: list[str] | None = None) -> list[Path]:
    """The documents under a folder (hidden files and `sources.json` apart), sorted by path, or the one file named.

    A sentence for each file of another kind is added to `others`. Raises Invalid where there is nothing to read.
    """
    if place.is_file():
        if place.suffix.lower() not in FORMATS:
            raise Invalid(
                f"{place.name}: expected one of {KNOWN}; found '{place.suffix[:20]}'.", hint="Convert it, or rename it to what it is."
            )
        return [place]
    if not place.is_dir():
        raise Invalid(f"{place}: there is no such file or folder.", hint="Check the path after --documents.")
    files = sorted(
        path for path in place.rglob("*") if path.is_file() and not any(p.startswith(".") for p in path.relative_to(place).parts)
    )
    known = [path for path in files if path.suffix.lower() in FORMATS]
    if others is not None:
        others += [f"{path.name} is left out: it is none of {KNOWN}." for path in files if path not in known and path.name != SOURCES]
    if not known:
        raise Invalid(f"{place} holds no document.", hint=f"Read are {KNOWN}.")
    return known
