"""The papers agent: queries in, findings out, each the abstract of one paper. Reads Semantic Scholar, then OpenAlex, then arXiv.

Rules: a service that fails or finds nothing hands over to the next, and every failure is a gap; nothing is read but titles, abstracts and what the
services say about a paper; OpenAlex calls much an article that stands in no journal, so its place and version decide; a paper without an abstract is looked up once more by its DOI (publishers such as Springer keep theirs from Semantic
Scholar), and is dropped with a reason when nobody has it. A retracted paper is dropped. A TLDR is written by a machine, not by the paper's authors:
it may shape a question and never carries an answer. Order is fixed: query by query, then most cited first, then by id.

It does not know whether a service tells the truth about a paper, and it never reads the paper itself.
"""

import asyncio
import datetime as dt
import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from pipeline import safety
from pipeline.calls import Calls
from pipeline.config import Endpoints, PipelineConfig
from pipeline.http import NAMES, Getter
from pipeline.ports import CallFailed, FetchRequest, Progress, Watcher
from pipeline.standards import Standards
from pipeline.values import AgentResult, Drop, Finding, Gap, Query, finding_id, text_sha256
from registry.errors import Invalid
from registry.identifiers import identify

PER_QUERY = 10  # papers asked for at each service
MIN_ABSTRACT = 80  # characters; "No abstract available." and the like are shorter
MAX_ABSTRACT = 6_000  # characters; the longest journals allow is about 500 words, more is a full text in the wrong field
MAX_WORDS = 3_000  # words of an inverted index that are put in order
MAX_XML = 2_000_000  # characters; ten arXiv entries are about 30,000
MAX_KEY_FINDINGS = 3
GIVE_UP_AFTER = 3  # failures without an answer between them; each already stands for all retries of a call
# Requests in flight per service; calls.py spaces them in time. arXiv's terms allow one connection (info.arxiv.org/help/api/tou).
IN_FLIGHT = {"semantic_scholar": 4, "openalex": 4, "arxiv": 1}
S2_FIELDS = "title,authors,venue,year,externalIds,abstract,isOpenAccess,openAccessPdf,tldr,publicationTypes,citationCount,url,publicationDate,journal"
OPENALEX_FIELDS = "id,doi,display_name,authorships,primary_location,publication_year,publication_date,type,biblio,cited_by_count,is_retracted,abstract_inverted_index"
# OpenAlex's words for kinds, in those of Semantic Scholar (the standards read the latter); what is not listed keeps its own name.
OPENALEX_TYPES = {"article": "JournalArticle", "review": "Review", "preprint": "Preprint", "book-chapter": "BookSection", "book": "Book"}
# Where OpenAlex calls a text an article although it stands in no journal: what the standards shall read instead.
OPENALEX_PLACES = {"conference": "Conference", "book series": "BookSection", "ebook platform": "Book", "repository": "Repository"}
TLDR_EXTENT, TLDR_ROLE, TLDR_RULE = "excerpt", "question", "paper.machine_summary"
TLDR_NOTE = "Only a summary written by a machine (Semantic Scholar's TLDR) was read, not the abstract."

_ATOM = {"a": "http://www.w3.org/2005/Atom", "x": "http://arxiv.org/schemas/atom"}
_HEADING = re.compile(r"<(jats:)?title>\s*(abstract|summary)\s*</(jats:)?title>", re.IGNORECASE)
_INLINE = re.compile(r"</?(?:jats:)?(?:b|i|em|strong|sub|sup|sc|italic|bold|inline-formula|span)(?:\s[^<>]{0,300})?>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][\w:.-]{0,40}(?:\s[^<>]{0,500})?/?>|<!--.{0,500}?-->", re.DOTALL)
_NOT_WORDS = re.compile(r"[^\w\s'.%]+|_")  # what a plain-text query may not hold: a hyphen alone makes Semantic Scholar find nothing
_RETRACTED = re.compile(r"\s*\[?(?:retracted|withdrawn|retraction|withdrawal)\b(?:\s+(?:article|notice|note|paper))?\]?\s*:", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”)\]]?\s+(?=[\"'“(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(r"(?:\b(?:al|e\.g|i\.e|vs|cf|Fig|Dr|Mr|Ms|Prof|St|No|approx|resp|ca|ref|refs|pp)|\b[A-Z])\.$")
_RESULT = re.compile(
    r"\b(?:found|finds?|finding|findings|show(?:s|ed|n)?|reveal(?:s|ed)?|demonstrat(?:es?|ed)|indicat(?:es?|ed)|suggest(?:s|ed)?|conclud(?:es?|ed)|"
    r"conclusions?|associated|associations?|correlat(?:es?|ed|ion)|predict(?:s|ed)|significant(?:ly)?|percent|per cent|reduc(?:es?|ed)|"
    r"increas(?:es?|ed)|improv(?:es?|ed)|declin(?:es?|ed)|lower(?:ed)?|higher|fewer|outperformed|mediated|moderated|results)\b|\d\s?%|\bp\s?[<=>]",
    re.IGNORECASE,
)
_AIM = re.compile(
    r"^(?:\w+:\s*)?(?:we|this (?:study|paper|article|review)|the (?:aim|purpose|goal|objective)s?|our (?:aim|goal))\b.{0,40}?"
    r"\b(?:aim(?:s|ed)?|examin(?:es?|ed)|investigat(?:es?|ed)|explor(?:es?|ed)|ask(?:s|ed)?|test(?:s|ed)? whether|sought|purpose|objective|goal|will)\b",
    re.IGNORECASE,
)
_STOP = frozenset(
    [
        "a",
        "about",
        "after",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "do",
        "does",
        "for",
        "from",
        "how",
        "i",
        "in",
        "into",
        "is",
        "it",
        "its",
        "me",
        "my",
        "not",
        "of",
        "on",
        "or",
        "our",
        "should",
        "that",
        "the",
        "their",
        "to",
        "vs",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "with",
        "you",
        "your",
    ]
)


@dataclass(frozen=True)
class Paper:
    """One paper as a service describes it; `abstract` and `tldr` are None where the service has none."""

    id: str
    url: str
    title: str
    abstract: str | None = None
    tldr: str | None = None
    doi: str | None = None
    authors: tuple[str, ...] = ()
    published: str | None = None
    container: str | None = None
    volume: str | None = None
    page: str | None = None
    types: tuple[str, ...] = ()
    citation_count: int | None = None
    retracted: bool = False
    concealed: tuple[str, ...] = ()  # safety rules that only fire while the invisible characters are still in the text
    key: str = ""
    received_at: str = ""


@dataclass
class _Failures:
    """What went wrong per service and reason: the first sentence and how often; and how many failures came in a row."""

    words: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    in_a_row: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def add(self, service: str, error: CallFailed) -> None:
        message, count = self.words.get((service, error.reason), (error.message, 0))
        self.words[service, error.reason] = (message, count + 1)
        self.in_a_row[service] = self.in_a_row.get(service, 0) + 1

    def gaps(self, step: str) -> list[Gap]:
        found = [Gap(step, reason, message, count) for (_, reason), (message, count) in sorted(self.words.items())]
        for service, count in sorted(self.left_out.items()):
            words = f"{NAMES[service]} failed {GIVE_UP_AFTER} times in a row and was not asked {count} more times."
            found.append(Gap(step, "service_left_out", words, count))
        return found


async def research(
    calls: Calls,
    agent: str,
    queries: Sequence[Query],
    config: PipelineConfig,
    standards: Standards,
    watch: Watcher,
    *,
    getter: Getter,
    endpoints: Endpoints,
) -> AgentResult:
    """Findings for every query, with drops and gaps. Raises CallFailed only for a reason that no other call would survive (such as a full disk)."""
    if not config.papers or not queries:
        return AgentResult()
    search = _Search(calls, agent, getter, endpoints)
    done = 0

    async def one(query: Query) -> tuple[list[Paper], list[Drop]]:
        nonlocal done
        found = await search.papers(query)
        done += 1
        watch(
            Progress(
                agent, "running", query.text[:80], done, len(queries), failed=sum(count for _, count in search.failures.words.values())
            )
        )
        return found

    watch(Progress(agent, "running", "", 0, len(queries)))
    answers = await _all([one(query) for query in queries])
    # Some milliseconds a paper (the safety rules); in a thread, so that the other agents' answers are not kept waiting.
    result = await asyncio.to_thread(_judged, agent, queries, answers, standards)
    gaps = (*search.failures.gaps(agent), *result.gaps)
    state = "done" if result.findings else "failed"
    watch(
        Progress(
            agent,
            state,
            "",
            done,
            len(queries),
            kept=len(result.findings),
            dropped=len(result.drops),
            failed=sum(gap.count for gap in gaps),
        )
    )
    return replace(result, gaps=gaps)


async def _all(works: list[Any]) -> list[Any]:
    """Every result in order. The first fatal failure cancels the rest and is raised as itself, not as a group."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _judged(agent: str, queries: Sequence[Query], answers: Sequence[tuple[list[Paper], list[Drop]]], standards: Standards) -> AgentResult:
    """Papers to findings: each work once, each by the source standards; and a gap for the queries without any."""
    findings: list[Finding] = []
    drops: list[Drop] = []
    seen: dict[str, str] = {}
    empty: list[str] = []
    for query, (papers, unread) in zip(queries, answers, strict=True):
        drops.extend(unread)
        if not papers:
            empty.append(query.text)
        for paper in sorted(papers, key=lambda paper: (-(paper.citation_count or 0), paper.id)):
            known = next((seen[name] for name in _names(paper) if name in seen), None)
            if known is not None:
                drops.append(Drop(paper.id, agent, "duplicate", paper.title, neighbour=known))
                continue
            found = _finding(agent, query, paper, standards)
            if isinstance(found, Drop):
                drops.append(found)
            else:
                seen.update(dict.fromkeys(_names(paper), found.id))
                findings.append(found)
    gaps = (Gap(agent, "nothing_found", _nothing(empty), len(empty)),) if empty else ()
    return AgentResult(tuple(findings), gaps, tuple(drops))


def _nothing(texts: list[str]) -> str:
    shown = "; ".join(f"'{text[:80]}'" for text in texts[:3])
    return f"No readable paper was found for {len(texts)} of the queries: {shown}{' and others' if len(texts) > 3 else ''}."


def _names(paper: Paper) -> list[str]:
    """What a work is known by: its DOI, its URL, and its title where that is long enough to be its own ("Editorial" is not)."""
    words = re.findall(r"\w+", paper.title.casefold())
    return [name for name in (paper.doi and f"doi:{paper.doi}", paper.url, len(words) > 3 and " ".join(words)) if name]


def _finding(agent: str, query: Query, paper: Paper, standards: Standards) -> Finding | Drop:
    csl = _csl(paper)
    verdict = standards.paper(csl, types=paper.types, text=paper.abstract or "")
    if verdict.role is None:
        return Drop(paper.id, agent, verdict.rule, f"{paper.title}: {verdict.why}")
    text, extent, role, rule = paper.abstract or "", "abstract", verdict.role, verdict.rule
    if paper.abstract is None:
        text, extent, role, rule, csl = paper.tldr or "", TLDR_EXTENT, TLDR_ROLE, TLDR_RULE, {**csl, "note": TLDR_NOTE}
    return Finding(
        id=finding_id(paper.url, text, role),
        url=paper.url,
        title=paper.title,
        text=text,
        agent=agent,
        query=query.id,
        retrieved_at=paper.received_at,
        extent=extent,
        document_sha256=text_sha256(text),
        role=role,
        class_=verdict.class_,
        review_status=verdict.review_status,
        rule=rule,
        authors=paper.authors,
        published=paper.published,
        doi=paper.doi,
        csl=csl,
        key_findings=key_findings(text) if extent == "abstract" else (),
        citation_count=paper.citation_count,
        flags=tuple(sorted({*safety.scan(f"{paper.title}\n\n{text}"), *paper.concealed})),
        call=paper.key or None,
    )


def _csl(paper: Paper) -> dict[str, Any]:
    """CSL-JSON without an id. Names stay whole: the services give one string, and where a family name begins would be a guess."""
    kind = "paper-conference" if "Conference" in paper.types else "article-journal"
    journal = (
        paper.container
        and not {"Preprint", "Repository", "SubmittedVersion"} & set(paper.types)
        and "arxiv" not in paper.container.casefold()
    )
    facts = {
        "type": kind if journal else "article",
        "title": paper.title,
        "author": [{"literal": name} for name in paper.authors],
        "issued": {"date-parts": [[int(part) for part in paper.published.split("-")]]} if paper.published else None,
        "container-title": paper.container,
        "volume": paper.volume,
        "page": paper.page,
        "DOI": paper.doi,
        "URL": paper.url,
    }
    return {name: value for name, value in facts.items() if value}


class _Search:
    """One run of the agent over the three services."""

    def __init__(self, calls: Calls, agent: str, getter: Getter, endpoints: Endpoints) -> None:
        self.calls, self.agent, self.getter, self.endpoints = calls, agent, getter, endpoints
        self.failures = _Failures()
        self._rooms = {service: asyncio.Semaphore(count) for service, count in IN_FLIGHT.items()}

    async def papers(self, query: Query) -> tuple[list[Paper], list[Drop]]:
        """The first service that has something readable answers."""
        drops: list[Drop] = []
        for service, request, read in (
            ("semantic_scholar", self._s2(query), s2_papers),
            ("openalex", self._openalex(query), openalex_papers),
            ("arxiv", self._arxiv(query), arxiv_papers),
        ):
            found = await self._ask(service, request, read)
            readable, unread = await self._read(found)
            drops.extend(unread)
            if readable:
                return readable, drops
        return [], drops

    async def _ask(
        self, service: str, request: FetchRequest, read: Callable[[Mapping[str, Any]], list[Paper]], *, may_miss: bool = False
    ) -> list[Paper]:
        """The papers of one answer; none, and a note of the failure, where there is no answer. Raises CallFailed for a fatal reason.

        `may_miss`: a work that the service does not know is an answer, not a failure.
        """
        async with self._rooms[service]:
            if self.failures.in_a_row.get(service, 0) >= GIVE_UP_AFTER:
                self.failures.left_out[service] = self.failures.left_out.get(service, 0) + 1
                return []
            try:
                fetched = await self.calls.fetch(request, self.getter.get)
                found = read(_body(fetched.body))
            except CallFailed as error:
                if error.fatal:
                    raise
                if not (may_miss and error.reason == "not_found"):
                    self.failures.add(service, error)
                return []
            self.failures.in_a_row[service] = 0
        return [replace(paper, key=fetched.key, received_at=fetched.received_at) for paper in found]

    async def _read(self, papers: list[Paper]) -> tuple[list[Paper], list[Drop]]:
        """Those that can be read, and a reason for each of the others."""
        whole = await _all([self._with_abstract(paper) for paper in papers])
        drops = [Drop(paper.id, self.agent, *why) for paper in whole if (why := _unreadable(paper))]
        return [paper for paper in whole if not _unreadable(paper)], drops

    async def _with_abstract(self, paper: Paper) -> Paper:
        """The paper, with OpenAlex's abstract where its own is missing and it has a DOI."""
        if paper.abstract or not paper.doi or not paper.id.startswith("s2:"):
            return paper
        url = f"{self.endpoints.openalex}/works/doi:{quote(paper.doi, safe='/:;()-._~')}"
        request = FetchRequest(self.agent, "openalex", url, (("select", OPENALEX_FIELDS),))
        found = next(iter(await self._ask("openalex", request, _openalex_work, may_miss=True)), None)
        if found is None or not (found.abstract or found.retracted):
            return paper
        # The text is OpenAlex's, so its call and its time are what is named; what else is known of the paper stays.
        return replace(
            paper,
            abstract=found.abstract,
            retracted=found.retracted,
            types=tuple(dict.fromkeys([*paper.types, *found.types])),
            concealed=(*paper.concealed, *found.concealed),
            key=found.key,
            received_at=found.received_at,
        )

    def _s2(self, query: Query) -> FetchRequest:
        params = (("query", plain_query(query.text)), ("fields", S2_FIELDS), ("limit", str(PER_QUERY)))
        return FetchRequest(self.agent, "semantic_scholar", f"{self.endpoints.semantic_scholar}/paper/search", params)

    def _openalex(self, query: Query) -> FetchRequest:
        params = (("search", plain_query(query.text)), ("per-page", str(PER_QUERY)), ("select", OPENALEX_FIELDS))
        return FetchRequest(self.agent, "openalex", f"{self.endpoints.openalex}/works", params)

    def _arxiv(self, query: Query) -> FetchRequest:
        params = (("search_query", arxiv_query(query.text)), ("start", "0"), ("max_results", str(PER_QUERY)))
        return FetchRequest(self.agent, "arxiv", self.endpoints.arxiv, params)


def _body(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The service's JSON, out of what the getter wrapped it in."""
    inner = answer.get("body")
    return inner if "status" in answer and isinstance(inner, dict) else answer


def _unreadable(paper: Paper) -> tuple[str, str] | None:
    """(reason, detail) why a paper cannot be used; None where it can."""
    if paper.retracted or _RETRACTED.match(paper.title):
        return "retracted", f"{paper.title} was retracted or withdrawn."
    if not paper.title:
        return "not_read", "The service gave no title."
    if not paper.url:
        return "not_read", f"{paper.title} has neither a DOI nor a valid address."
    if not paper.abstract and not paper.tldr:
        return "not_read", f"{paper.title} has no abstract at any service."
    return None


def plain_query(text: str) -> str:
    """A question as plain words: hyphens, quotes and operators become spaces; at most 300 characters."""
    return " ".join(_NOT_WORDS.sub(" ", safety.clean(text)).split())[:300].strip()


def arxiv_query(text: str) -> str:
    """The first six content words, all of which must occur; arXiv has no search by sentence."""
    words = [word for word in re.findall(r"[^\W_]+", plain_query(text).casefold()) if word not in _STOP and len(word) > 1]
    return " AND ".join(f"all:{word}" for word in list(dict.fromkeys(words))[:6]) or "all:none"


def key_findings(abstract: str) -> tuple[str, ...]:
    """Up to three sentences of the abstract, in its order, that state a result; by words alone, so it can miss some."""
    return tuple(sentence for sentence in sentences(abstract) if _RESULT.search(sentence) and not _AIM.match(sentence))[:MAX_KEY_FINDINGS]


def sentences(text: str) -> list[str]:
    """The sentences of a text; a full stop after an abbreviation or an initial ends none."""
    found: list[str] = []
    for part in _SENTENCE.split(text):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += " " + part
        else:
            found.append(part)
    return [part.strip() for part in found if part.strip()]


def plain_text(value: Any) -> str:
    """A service's text without HTML or JATS tags, entities and control characters, on one line; "" for what is no text."""
    if not isinstance(value, str):
        return ""
    text = html.unescape(value).encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair, which no file can
    text = _TAG.sub(" ", _INLINE.sub("", _HEADING.sub(" ", text)))
    return " ".join(safety.clean(text).split())


def _concealed(*values: Any) -> tuple[str, ...]:
    """The safety rules that fire on a text as it came; cleaning makes one word of two that an invisible character kept apart."""
    raw = "\n\n".join(html.unescape(value) for value in values if isinstance(value, str))[: 2 * MAX_ABSTRACT]
    return () if raw.isascii() or safety.clean(raw) == raw else tuple(safety.scan(raw.encode("utf-8", "replace").decode()))


def _abstract(value: Any) -> str | None:
    """The abstract, cut after a sentence when it is far too long; None for what is too short to be one."""
    text = plain_text(value)
    if len(text) > MAX_ABSTRACT:
        cut = text[:MAX_ABSTRACT]
        text = cut[: cut.rfind(". ") + 1] or cut
    return text if len(text) >= MIN_ABSTRACT else None


def _doi(value: Any) -> str | None:
    try:
        return identify(value).doi if isinstance(value, str) else None
    except Invalid:
        return None


def _address(doi: str | None, *others: Any) -> str:
    """The first of the DOI's URL and the given addresses that is valid; "" where none is."""
    for value in (doi, *others):
        try:
            if isinstance(value, str) and value:
                return identify(value).url
        except Invalid:
            continue
    return ""


def _date(*values: Any) -> str | None:
    """The first of the values that is a date (YYYY-MM-DD) or a year."""
    for value in values:
        text = str(value)[:10] if isinstance(value, (str, int)) else ""
        if re.fullmatch(r"[12]\d{3}", text):
            return text
        try:
            return dt.date.fromisoformat(text).isoformat()
        except ValueError:
            continue
    return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def s2_papers(body: Mapping[str, Any]) -> list[Paper]:
    """The papers of a Semantic Scholar search. Raises CallFailed (malformed) for an answer of another shape; an answer without `data` found nothing."""
    if "data" not in body and "total" not in body:
        raise CallFailed("malformed", "Semantic Scholar's answer has neither `data` nor `total`.")
    return [_s2_paper(item) for item in _list(body.get("data")) if isinstance(item, dict)]


def _s2_paper(item: dict[str, Any]) -> Paper:
    ids, journal = _dict(item.get("externalIds")), _dict(item.get("journal"))
    doi = _doi(ids.get("DOI"))
    arxiv = f"https://arxiv.org/abs/{ids['ArXiv']}" if isinstance(ids.get("ArXiv"), str) else None
    return Paper(
        id=f"s2:{plain_text(item.get('paperId'))[:80]}",
        url=_address(doi, arxiv, item.get("url")),
        title=plain_text(item.get("title"))[:500],
        abstract=_abstract(item.get("abstract")),
        tldr=plain_text(_dict(item.get("tldr")).get("text")) or None,
        doi=doi,
        authors=tuple(name for person in _list(item.get("authors")) if (name := plain_text(_dict(person).get("name"))[:200])),
        published=_date(item.get("publicationDate"), item.get("year")),
        container=plain_text(journal.get("name")) or plain_text(item.get("venue")) or None,
        volume=plain_text(journal.get("volume")) or None,
        page=plain_text(journal.get("pages")) or None,
        types=tuple(kind for kind in _list(item.get("publicationTypes")) if isinstance(kind, str)),
        citation_count=_count(item.get("citationCount")),
        concealed=_concealed(item.get("title"), item.get("abstract"), _dict(item.get("tldr")).get("text")),
    )


def openalex_papers(body: Mapping[str, Any]) -> list[Paper]:
    """The papers of an OpenAlex search. Raises CallFailed (malformed) for an answer of another shape."""
    if not isinstance(body.get("results"), list):
        raise CallFailed("malformed", "OpenAlex's answer has no list `results`.")
    return [_openalex_paper(item) for item in body["results"] if isinstance(item, dict)]


def _openalex_work(body: Mapping[str, Any]) -> list[Paper]:
    if not isinstance(body.get("id"), str):
        raise CallFailed("malformed", "OpenAlex's answer about one work has no `id`.")
    return [_openalex_paper(dict(body))]


def _openalex_paper(item: dict[str, Any]) -> Paper:
    biblio, place = _dict(item.get("biblio")), _dict(item.get("primary_location"))
    doi, kind = _doi(item.get("doi")), item.get("type")
    pages = [page for page in (plain_text(biblio.get("first_page")), plain_text(biblio.get("last_page"))) if page]
    people = (_dict(_dict(entry).get("author")) for entry in _list(item.get("authorships")))
    abstract = from_inverted(item.get("abstract_inverted_index"))
    return Paper(
        id=f"openalex:{str(item.get('id') or '').rpartition('/')[2][:80]}",
        url=_address(doi, place.get("landing_page_url"), item.get("id")),
        title=plain_text(item.get("display_name") or item.get("title"))[:500],
        abstract=_abstract(abstract),
        doi=doi,
        authors=tuple(name for person in people if (name := plain_text(person.get("display_name"))[:200])),
        published=_date(item.get("publication_date"), item.get("publication_year")),
        container=plain_text(_dict(place.get("source")).get("display_name")) or None,
        volume=plain_text(biblio.get("volume")) or None,
        page="-".join(dict.fromkeys(pages)) or None,
        types=_openalex_types(kind, place),
        concealed=_concealed(item.get("display_name") or item.get("title"), abstract),
        citation_count=_count(item.get("cited_by_count")),
        retracted=item.get("is_retracted") is True,
    )


def _openalex_types(kind: Any, place: Mapping[str, Any]) -> tuple[str, ...]:
    """The types of a work; an article or a review only where OpenAlex names a journal as its place and the text is no submitted version."""
    if not isinstance(kind, str):
        return ()
    where = _dict(place.get("source")).get("type")
    if kind not in ("article", "review"):
        return (OPENALEX_TYPES.get(kind, kind),)
    if where != "journal":
        return (OPENALEX_PLACES.get(where, "Other") if isinstance(where, str) else "Other",)
    return ("SubmittedVersion",) if place.get("version") == "submittedVersion" else (OPENALEX_TYPES[kind],)


def from_inverted(index: Any) -> str:
    """The text of an inverted index {word: [positions]}; at most MAX_WORDS words, in the order of their positions."""
    places = [
        (place, word)
        for word, positions in _dict(index).items()
        for place in _list(positions)
        if isinstance(place, int) and not isinstance(place, bool) and place >= 0
    ]
    return " ".join(word for _, word in sorted(places)[:MAX_WORDS])


def arxiv_papers(body: Mapping[str, Any]) -> list[Paper]:
    """The papers of an arXiv feed. Raises CallFailed for what is no such feed, or one that reports an error."""
    entries = _atom(body.get("text")).findall("a:entry", _ATOM)
    papers = [_arxiv_paper(entry) for entry in entries]
    if any("/api/errors" in _child(entry, "a:id") for entry in entries):
        raise CallFailed("invalid_request", f"arXiv refused the request: {_child(entries[0], 'a:summary')[:300]}")
    return papers


def _atom(text: Any) -> ET.Element:
    """The feed's root element. A document type is refused unread: with it come entities that expand without end or name files."""
    if not isinstance(text, str) or len(text) > MAX_XML:
        raise CallFailed("malformed", f"arXiv's answer is no text of at most {MAX_XML:,} characters.")
    if "<!doctype" in text.lower() or "<!entity" in text.lower():
        raise CallFailed("malformed", "arXiv's answer declares a document type, which a feed never does; it was not read.")
    try:
        root = ET.fromstring(text)  # noqa: S314 - see above: no DTD, no entities, bounded size
    except (ET.ParseError, ValueError):
        raise CallFailed("malformed", "arXiv's answer is not well-formed XML.") from None
    if root.tag != f"{{{_ATOM['a']}}}feed":
        raise CallFailed("malformed", "arXiv's answer is XML, but no Atom feed.")
    return root


def _child(entry: ET.Element, path: str) -> str:
    return plain_text(entry.findtext(path, "", _ATOM))


def _arxiv_paper(entry: ET.Element) -> Paper:
    """One entry. The archive registers the DOI 10.48550/arXiv.<id> for every paper (info.arxiv.org/help/doi); it names what was read, a journal's DOI would not."""
    number = re.sub(r"v\d+$", "", _child(entry, "a:id").partition("/abs/")[2])
    doi = _doi(f"10.48550/arXiv.{number}") if number else None
    return Paper(
        id=f"arxiv:{number}",
        url=_address(doi, _child(entry, "a:id")),
        title=_child(entry, "a:title")[:500],
        abstract=_abstract(entry.findtext("a:summary", "", _ATOM)),
        concealed=_concealed(entry.findtext("a:title", "", _ATOM), entry.findtext("a:summary", "", _ATOM)),
        doi=doi,
        authors=tuple(name for person in entry.findall("a:author", _ATOM) if (name := _child(person, "a:name")[:200])),
        published=_date(_child(entry, "a:published")),
        container="arXiv",
        types=("Preprint",),
    )
