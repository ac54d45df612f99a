"""The Source Card: what one version of an advisor's adapter was trained on, every number counted from the catalogue.

Rules:
- Two data statements, however large the dataset: one for the advisor, its version and the counts of its pairs, one for the sources.
- Only training pairs count; held-out pairs appear nowhere. What may be said of the numbers is decided in lineage/claims.py.
- An alias says who is served, so a card asked for by alias is withheld while its version rests on a withdrawn source (state "withheld"); a card asked for
  by number is a record and stays readable, with its warnings.
- A private advisor does not exist for those who may not read it: the words are the same as for an unknown name.
- Reasons that people gave for a withdrawal are for the history, which needs a token; the card says that and when.

The shape is the design's source-card.json. What was added to it, and why: `version.state` (a withdrawn version can be asked for), `version.dataset` (the
digest that `registry verify` recomputes), `base_model.kind` (only a hub model has an unpublished past), `totals.documents` and `totals.failed_checks` (the
sentence and the warnings can be checked against them), `examples.edited` and `examples.without_source` (the counts add up), `documents_total` (the list is
cut at ten), notices of kind "version" and "none". `badges[].rule` names the rule that gave the badge. What is null there: links to pages that do not exist yet (`rule_url` among them), and `link.archive_url`; `link.status` is
"unchecked", because nobody follows the links yet. In the states "withheld" and "none" `version`, `base_model`, `totals` and `evaluated` are null: zeros
would be numbers, and wrong ones.
"""

import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, cast
from urllib.parse import urlencode

from sqlalchemy import JSON, ColumnElement, Integer, Row, Select, String, and_, bindparam, case, distinct, exists, func, or_, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.selectable import CTE

from lineage import citations, claims
from lineage.paging import decode_cursor, encode_cursor
from registry.errors import Gone, Invalid, NotFound
from registry.events import now
from registry.models import (
    AdapterVersion,
    Advisor,
    AdvisorName,
    Alias,
    BaseModel,
    Dataset,
    DatasetExample,
    Document,
    Evaluation,
    Example,
    ExampleSource,
    Score,
    Source,
)
from registry.refs import check_alias, check_slug
from registry.vocabulary import CLASS_LABELS, CLASSES, EXTENTS, FAILED_CHECKS

SCHEMA: Final = "source-card/1"
LIVE: Final = "live"
# Sources a group shows at first, 1.3 kB each: a usual card stays under 20 kB (2 kB gzipped), one with all seven classes under 50.
PAGE: Final = 5
MAX_PAGE: Final = 200
AUTHORS: Final = 10  # names listed per source; authors_total says how many there are
DOCUMENTS: Final = 10  # documents listed per source; documents_total says how many there are
RECALLS: Final = 5  # withdrawn versions named in notices, the newest first
MAX_NUMBER: Final = 999_999_999  # the largest version number a reference can name
HELDOUT: Final = "heldout"  # the suite that training itself records
# The figure a reader can judge without its neighbours comes first: the gain over the base has an interval of its own.
_TELLING = ("loss_difference", "adapter_perplexity", "adapter_loss", "perplexity", "loss")
# Who issued a work says more than its class for these; an academic work is named by its authors instead.
_PUBLISHED = ("institutional", "industry", "professional", "clinical")
_CHECK_WORDS = {
    "mismatched": "The registry describes another work under this identifier than the citation does.",
    "not_found": "The identifier was not found in its registry.",
    "retracted": "This work was retracted.",
}
_REVIEW_BADGES = {
    "peer_reviewed": ("peer-reviewed", "Peer-reviewed", "good", "R3"),
    "guideline": ("guideline", "Guideline", "neutral", "R4"),
    "preprint": ("preprint", "Preprint, not peer-reviewed", "neutral", "R5"),
    "self_published": ("self-published", "Self-published", "neutral", "R6"),
}
_CHECK_BADGES = {
    "verified": ("citation-checked", "Citation checked", "good", "R1"),
    "unchecked": ("citation-unchecked", "Citation not checked yet", "neutral", "R2"),
}


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the version by number or by alias (live where neither is given), and which part of the list of sources."""

    version: int | None = None
    alias: str | None = None
    group: str | None = None
    cursor: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Card:
    """A computed card. `etag` is weak and leaves `generated_at` out; `public` tells whether everybody may see it."""

    body: dict[str, Any]
    etag: str
    public: bool


@dataclass(frozen=True)
class _Page:
    """A checked request for sources: `after` is the (pairs, key) of the last one seen."""

    limit: int
    group: str | None = None
    after: tuple[int, str] | None = None


def build(session: Session, name: str, wanted: Wanted, *, may_see: Callable[[int], bool]) -> Card:
    """The card of the advisor that answers to `name`. `may_see` says of an advisor's id whether the reader may see it although it is private.

    Raises Invalid for a malformed request, NotFound, and Gone for a retired advisor.
    """
    check_slug(name)
    page = _checked(wanted)
    values = {"name": name, "alias": wanted.alias or LIVE, "number": wanted.version}
    row = session.execute(_header(sqlite=_on_sqlite(session), by_number=wanted.version is not None), values).one_or_none()
    if row is None or not (row.public or may_see(row.advisor_id)):
        raise NotFound(f"No advisor answers to '{name}' here.", hint="Advisors are private unless their owners publish them.")
    if row.retired_at is not None:
        raise Gone(f"The advisor '{row.slug}' was retired on {row.retired_at:%Y-%m-%d}.")
    body = _body(session, row, wanted, page)
    return Card(body | {"generated_at": _moment(now())}, _etag(body, row.generation), row.public)


def _checked(wanted: Wanted) -> _Page:
    if wanted.version is not None and wanted.alias is not None:
        raise Invalid("A card is asked for by version or by alias, not by both.")
    if wanted.alias is not None:
        check_alias(wanted.alias)
    if wanted.version is not None and not 1 <= wanted.version <= MAX_NUMBER:
        raise Invalid(f"A version is numbered from 1; found {wanted.version}.")
    if wanted.group is not None and wanted.group not in CLASSES:
        raise Invalid(f"A group is one of {', '.join(CLASSES)}; found {wanted.group[:40]!a}.")
    if wanted.limit is not None and not 1 <= wanted.limit <= MAX_PAGE:
        raise Invalid(f"A page has 1 to {MAX_PAGE} sources; found {wanted.limit}.")
    limit = PAGE if wanted.limit is None else wanted.limit
    if wanted.cursor is None:
        return _Page(limit, wanted.group)
    if wanted.group is None:
        raise Invalid("A cursor needs the group it belongs to.", hint="Follow a group's 'next' as it is.")
    pairs, key = decode_cursor(wanted.cursor, (int, str))
    return _Page(limit, wanted.group, (min(int(pairs), 2**31 - 1), str(key)))


# ---- The first statement: advisor, version, counts ------------------------------------------------------------------------------------------


def _on_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


@lru_cache(maxsize=4)  # to put such a statement together takes SQLAlchemy longer than the database takes to run it
def _header(*, sqlite: bool, by_number: bool) -> Select[Any]:
    """One row: the advisor, what the alias points to, the version asked for, and everything counted around them as JSON lists."""
    rows = _json_rows(sqlite=sqlite)
    head = _head(by_number=by_number)
    dataset, advisor, version = (select(column).scalar_subquery() for column in (head.c.dataset_id, head.c.advisor_id, head.c.version_id))
    training = and_(DatasetExample.dataset_id == dataset, DatasetExample.split == "train")
    tied = exists().where(ExampleSource.example_id == DatasetExample.example_id)
    written = (
        select(Example.origin, Example.generator, func.count().label("n"), func.count().filter(Example.read_by_people).label("read"))
        .join(DatasetExample, DatasetExample.example_id == Example.id)
        .where(training)
        .group_by(Example.origin, Example.generator)
        .subquery()
    )
    newest = (
        select(Evaluation.id)
        .where(Evaluation.version_id == version)
        .order_by((Evaluation.suite == HELDOUT).desc(), Evaluation.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    recalled = (
        select(AdapterVersion.number, AdapterVersion.withdrawn_at)
        .where(AdapterVersion.advisor_id == advisor, AdapterVersion.state == "withdrawn")
        .order_by(AdapterVersion.number.desc())
        .limit(RECALLS)
        .subquery()
    )
    names = select(rows(AdvisorName.name)).where(AdvisorName.advisor_id == advisor)
    scores = select(rows(Evaluation.suite, Score.metric, Score.value, Score.low, Score.high, Score.n)).join(
        Score, Score.evaluation_id == Evaluation.id
    )
    return select(
        head,
        names.scalar_subquery().label("names"),
        select(rows(written.c.origin, written.c.generator, written.c.n, written.c.read)).scalar_subquery().label("written"),
        select(func.count()).select_from(DatasetExample).where(training, tied).scalar_subquery().label("with_source"),
        scores.where(Evaluation.id == newest).scalar_subquery().label("scores"),
        select(rows(recalled.c.number, recalled.c.withdrawn_at)).scalar_subquery().label("recalled"),
    )


def _head(*, by_number: bool) -> CTE:
    """The advisor, its alias, and the version with its dataset and base; at most one row."""
    pointed_to = AdapterVersion.id == Alias.version_id
    numbered = and_(
        AdapterVersion.advisor_id == Advisor.id, AdapterVersion.number == bindparam("number"), AdapterVersion.state != "pending"
    )
    live = aliased(Alias)
    return (
        select(
            Advisor.id.label("advisor_id"),
            Advisor.slug,
            Advisor.name,
            Advisor.role,
            Advisor.public,
            Advisor.retired_at,
            Alias.name.label("alias"),
            Alias.generation,
            live.version_id.label("live_id"),
            live.moved_at.label("live_since"),
            AdapterVersion.id.label("version_id"),
            AdapterVersion.number,
            AdapterVersion.digest,
            AdapterVersion.state,
            AdapterVersion.kind.label("version_kind"),
            Dataset.id.label("dataset_id"),
            Dataset.sha256.label("dataset"),
            BaseModel.repo,
            BaseModel.revision,
            BaseModel.kind,
            BaseModel.note,
        )
        .select_from(AdvisorName)
        .join(Advisor, Advisor.id == AdvisorName.advisor_id)
        .outerjoin(Alias, and_(Alias.advisor_id == Advisor.id, Alias.name == bindparam("alias")))
        .outerjoin(live, and_(live.advisor_id == Advisor.id, live.name == LIVE))
        .outerjoin(AdapterVersion, numbered if by_number else pointed_to)
        .outerjoin(Dataset, Dataset.id == AdapterVersion.dataset_id)
        .outerjoin(BaseModel, BaseModel.id == AdapterVersion.base_model_id)
        .where(AdvisorName.name == bindparam("name"))
        .cte("head")
    )


def _json_rows(*, sqlite: bool) -> Callable[..., ColumnElement[Any]]:
    """An aggregate that makes a JSON list of lists, under the name each database has for it. No rows give null or an empty list."""
    if sqlite:
        return lambda *columns: func.json_group_array(func.json_array(*columns), type_=JSON())
    return lambda *columns: func.json_agg(func.json_build_array(*columns), type_=JSON())


# ---- The second statement: sources ----------------------------------------------------------------------------------------------------------


def _sources(session: Session, dataset_id: int, page: _Page) -> Sequence[Row[Any]]:
    """A row per document that training pairs rest on, grouped by source in the card's order; citations only for the sources on the page."""
    pairs, key = page.after or (None, None)
    values = {"dataset": dataset_id, "limit": page.limit, "group": page.group, "after_pairs": pairs, "after_key": key}
    query = _sources_query(sqlite=_on_sqlite(session), grouped=page.group is not None, continued=page.after is not None)
    return session.execute(query, values).all()


@lru_cache(maxsize=6)
def _sources_query(*, sqlite: bool, grouped: bool, continued: bool) -> Select[Any]:
    tied = (
        select(Document.source_id, ExampleSource.document_id, ExampleSource.example_id, ExampleSource.role)
        .join(Document, Document.id == ExampleSource.document_id)
        .join(DatasetExample, DatasetExample.example_id == ExampleSource.example_id)
        .where(DatasetExample.dataset_id == bindparam("dataset"), DatasetExample.split == "train")
        .cte("tied")
    )
    used = (
        select(
            tied.c.source_id,
            func.count(distinct(tied.c.example_id)).label("pairs"),
            func.count().filter(tied.c.role == "answer").label("answers"),
            func.count().filter(tied.c.role == "question").label("questions"),
        )
        .group_by(tied.c.source_id)
        .cte("used")
    )
    # The databases sort text differently unless told; bytes are the same everywhere.
    key: ColumnElement[str] = cast("ColumnElement[str]", Source.key) if sqlite else Source.key.collate("C")
    ahead = _ahead(used.c.pairs, key, grouped=grouped, continued=continued)
    place = func.row_number().over(partition_by=[Source.class_, ahead], order_by=[used.c.pairs.desc(), key])
    ranked = (
        select(Source.id.label("source_id"), used.c.pairs, used.c.answers, used.c.questions, ahead.label("ahead"), place.label("place"))
        .join(used, used.c.source_id == Source.id)
        .cte("ranked")
    )
    shown = and_(ranked.c.ahead, ranked.c.place <= bindparam("limit"))
    return (
        select(
            ranked,
            Source.key,
            Source.class_.label("class_"),
            Source.review_status,
            Source.check_status,
            Source.withdrawn_at,
            Source.csl["publisher"].as_string().label("publisher"),
            case((shown, True), else_=False).label("shown"),
            case((shown, Source.csl)).label("csl"),
            case((shown, Source.url)).label("url"),
            case((shown, Source.doi)).label("doi"),
            case((shown, Source.check_registry)).label("check_registry"),
            case((shown, Source.checked_at)).label("checked_at"),
            Document.id.label("document_id"),
            Document.extent,
            Document.retrieved_at,
            Document.sha256,
        )
        .join(Source, Source.id == ranked.c.source_id)
        .join(Document, Document.source_id == ranked.c.source_id)
        .where(Document.id.in_(select(tied.c.document_id)))
        .order_by(ranked.c.pairs.desc(), key, Document.id)
    )


def _ahead(pairs: ColumnElement[int], key: ColumnElement[str], *, grouped: bool, continued: bool) -> ColumnElement[bool]:
    """Whether a source lies on or behind the page asked for; the others are counted and not shown."""
    if not grouped:
        return case((Source.id.is_not(None), True), else_=False)  # always; a bare TRUE is not something every database partitions by
    wanted: ColumnElement[bool] = Source.class_ == bindparam("group")
    if continued:
        count, last = bindparam("after_pairs", type_=Integer), bindparam("after_key", type_=String)
        wanted = and_(wanted, or_(pairs < count, and_(pairs == count, key > last)))
    return case((wanted, True), else_=False)


@dataclass(frozen=True)
class _Found:
    """One source under the version, with the documents that were read of it."""

    row: Row[Any]
    documents: tuple[Row[Any], ...]

    @property
    def sound(self) -> bool:
        """Whether its citation stands and it was not withdrawn."""
        return self.row.withdrawn_at is None and self.row.check_status not in FAILED_CHECKS

    @property
    def peer_reviewed(self) -> bool:
        """Whether it may be counted as peer-reviewed."""
        return bool(self.sound and self.row.review_status == "peer_reviewed")


def _found(rows: Sequence[Row[Any]]) -> list[_Found]:
    grouped = (tuple(group) for _, group in groupby(rows, key=lambda row: row.source_id))
    return [_Found(documents[0], documents) for documents in grouped]


# ---- The card -------------------------------------------------------------------------------------------------------------------------------


def _body(session: Session, row: Row[Any], wanted: Wanted, page: _Page) -> dict[str, Any]:
    if row.version_id is None:
        return _without_version(row, wanted)
    found = _found(_sources(session, row.dataset_id, page))
    recalled = [source for source in found if source.row.withdrawn_at is not None]
    if wanted.version is None and (recalled or row.state != "ready"):
        return _withheld(row, wanted, recalled)
    facts = _facts(row, found)
    return _frame(row, wanted, _state(wanted), _notices(row, wanted, recalled)) | {
        "version": {
            "ref": f"{row.slug}@{row.number}",
            "number": row.number,
            "digest": row.digest,
            "state": row.state,
            "live_since": _moment(row.live_since) if row.live_id == row.version_id else None,
            "dataset": row.dataset,
        },
        "base_model": {
            "id": row.repo,
            "revision": row.revision,
            "kind": row.kind,
            "note": citations.plain(claims.base_note(row.kind, row.repo, row.note), 1000),
        },
        "summary": {"sentence": claims.sentence(facts), "lines": claims.lines(facts)},
        "totals": _totals(facts, found),
        "groups": _groups(row, page, found, facts.total),
        "evaluated": _evaluated(row.scores or []),
    }


def _state(wanted: Wanted) -> str:
    return "version" if wanted.version is not None else (wanted.alias or LIVE)


def _frame(row: Row[Any], wanted: Wanted, state: str, notices: list[dict[str, Any]]) -> dict[str, Any]:
    """What every card has, in the order of the design; the rest is null until it is filled in."""
    names = sorted(name for (name,) in row.names or [] if name != row.slug)
    return {
        "schema": SCHEMA,
        "advisor": {
            "slug": row.slug,
            "aliases": names,
            "name": row.name,
            "role": row.role,
            "is_ai": True,
            "disclosure": claims.disclosure(row.name),
        },
        "state": state,
        "alias": None if wanted.version is not None else (wanted.alias or LIVE),
        "version": None,
        "base_model": None,
        "summary": {"sentence": notices[0]["text"] if notices else "", "lines": []},
        "totals": None,
        "groups": [],
        "notices": notices,
        "evaluated": None,
        # The pages and exports do not exist yet, and the history needs a token: a dead link would be worse than none.
        "links": {"self": _link(row.slug, wanted), "bibliography": None, "methodology": None, "csl": None, "bibtex": None, "history": None},
    }


def _without_version(row: Row[Any], wanted: Wanted) -> dict[str, Any]:
    if wanted.version is not None:
        raise NotFound(f"'{row.slug}' has no version {wanted.version}.")
    alias = wanted.alias or LIVE
    if row.alias is None and alias != LIVE:
        raise NotFound(f"'{row.slug}' has no version under the alias '{alias}'.")
    none = _notice("none", f"{row.name} has no {alias} version, so there is nothing to list.", None, None)
    return _frame(row, wanted, "none", [none, *_recalls(row)])


def _withheld(row: Row[Any], wanted: Wanted, recalled: Sequence[_Found]) -> dict[str, Any]:
    days = [source.row.withdrawn_at for source in recalled]
    count = claims.counted(len(recalled), "source")
    why = f"{count} behind it {'was' if len(recalled) == 1 else 'were'} withdrawn" if recalled else f"it is {row.state}"
    ref = f"{row.slug}@{row.number}"
    notice = _notice("recall", f"{ref} is withheld: {why}.", max(days) if days else None, ref)
    return _frame(row, wanted, "withheld", [notice, *_recalls(row)])


def _notices(row: Row[Any], wanted: Wanted, recalled: Sequence[_Found]) -> list[dict[str, Any]]:
    ref = f"{row.slug}@{row.number}"
    found = []
    if recalled:
        count = claims.counted(len(recalled), "source")
        text = f"{ref} rests on {count} that {'was' if len(recalled) == 1 else 'were'} withdrawn."
        found.append(_notice("recall", text, max(source.row.withdrawn_at for source in recalled), ref))
    if wanted.version is not None and row.live_id != row.version_id:
        found.append(_notice("version", f"This is the record of {ref}, which is not the live version.", None, ref))
    return found + _recalls(row)


def _recalls(row: Row[Any]) -> list[dict[str, Any]]:
    """A notice per withdrawn version, the newest first."""
    return [
        _notice("recall", f"{row.slug}@{number} was withdrawn and is no longer served.", _read_moment(at), f"{row.slug}@{number}")
        for number, at in sorted(row.recalled or [], reverse=True)
    ]


def _notice(kind: str, text: str, at: dt.datetime | None, affected: str | None) -> dict[str, Any]:
    return {"kind": kind, "text": text, "at": _day(at), "affected_version": affected}


def _facts(row: Row[Any], found: Sequence[_Found]) -> claims.Facts:
    # Ten passages quoted from one page are excerpts of one document, not of ten.
    extents = dict(Counter(extent for source in found for extent in {document.extent for document in source.documents}))
    issuers = (citations.plain(s.row.publisher, 120) for s in found if s.sound and s.row.class_ in _PUBLISHED)
    return claims.Facts(
        written=tuple(claims.Written(origin, generator, n, read) for origin, generator, n, read in sorted(row.written or [], key=str)),
        with_source=row.with_source,
        extents=extents,
        peer_reviewed=sum(source.peer_reviewed for source in found),
        publishers=tuple(dict.fromkeys(issuer for issuer in issuers if issuer)),
        kind=row.version_kind,
    )


def _totals(facts: claims.Facts, found: Sequence[_Found]) -> dict[str, Any]:
    by_class = Counter(source.row.class_ for source in found)
    extents = [(extent, facts.extents.get(extent, 0)) for extent in (*EXTENTS, None)]
    return {
        "sources": len(found),
        "peer_reviewed": facts.peer_reviewed,
        "unchecked": sum(source.row.check_status == "unchecked" for source in found),
        "failed_checks": sum(source.row.check_status in FAILED_CHECKS for source in found),
        "withdrawn": sum(source.row.withdrawn_at is not None for source in found),
        "by_class": [{"class": name, "label": CLASS_LABELS[name], "count": by_class[name]} for name in CLASSES if by_class[name]],
        "documents": {
            "total": sum(facts.extents.values()),
            "by_extent": [{"extent": extent, "label": _extent_label(extent), "count": count} for extent, count in extents if count],
        },
        "examples": {
            "total": facts.total,
            "with_source": facts.with_source,
            "without_source": facts.total - facts.with_source,
            "synthesised": facts.by_origin("synthesised"),
            "edited": facts.by_origin("edited"),
            "human_written": facts.by_origin("human"),
            "read_by_people": facts.read_by_people,
            "calibration_items": 0,  # none can be imported yet; they would be excluded from every total
            "generators": [{"model": model, "count": count} for model, count in facts.generators],
        },
    }


def _extent_label(extent: str | None) -> str:
    return "not recorded" if extent is None else extent.replace("_", " ")


def _groups(row: Row[Any], page: _Page, found: Sequence[_Found], pairs: int) -> list[dict[str, Any]]:
    groups = []
    by_class: dict[str, list[_Found]] = {}
    for source in found:
        by_class.setdefault(source.row.class_, []).append(source)
    for order, name in enumerate(CLASSES, 1):
        members = by_class.get(name, [])
        if not members or page.group not in (None, name):
            continue
        shown = [source for source in members if source.row.shown]
        more = sum(bool(source.row.ahead) for source in members) > len(shown)
        groups.append(
            {
                "class": name,
                "label": CLASS_LABELS[name],
                "order": order,
                "count": len(members),
                "next": _next(row, page, shown[-1].row) if more else None,
                "sources": [_source(source, pairs) for source in shown],
            }
        )
    return groups


def _next(row: Row[Any], page: _Page, last: Row[Any]) -> str:
    """The next page of one group. It names the version, so that a promotion between two pages cannot mix two lists."""
    cursor = encode_cursor(last.pairs, last.key)
    query = {"version": row.number, "group": last.class_, "limit": page.limit, "cursor": cursor}
    return f"/advisors/{row.slug}/sources?{urlencode(query)}"


def _link(slug: str, wanted: Wanted) -> str:
    query = {key: value for key, value in (("version", wanted.version), ("alias", wanted.alias)) if value is not None}
    return f"/advisors/{slug}/sources" + (f"?{urlencode(query)}" if query else "")


def _source(source: _Found, pairs: int) -> dict[str, Any]:
    row = source.row
    url = row.url or (f"https://doi.org/{row.doi}" if row.doi else None)
    cited = citations.read(row.csl if isinstance(row.csl, Mapping) else {}, url=url, doi=row.doi)
    return {
        "id": f"src_{row.source_id}",
        "title": cited.title or url or row.key,
        "authors": [author.as_json() for author in cited.people[:AUTHORS]],
        "authors_total": len(cited.people),
        "issued": cited.date.as_json(),
        "container": cited.container,
        "publisher": cited.publisher,
        "url": url,
        "doi": row.doi,
        "short": citations.short(cited),
        "citation_text": citations.citation_text(cited),
        "review_status": row.review_status,
        "check": {"status": row.check_status, "at": _day(row.checked_at), "registry": row.check_registry},
        "link": {"status": "unchecked", "archive_url": None},
        "badges": _badges(source),
        "warnings": _warnings(row),
        "use": {"pairs": row.pairs, "share": round(row.pairs / pairs, 4) if pairs else 0.0, "role": _role(row)},
        "documents": [
            {"extent": d.extent, "retrieved_at": _moment(d.retrieved_at), "sha256": d.sha256} for d in source.documents[:DOCUMENTS]
        ],
        "documents_total": len(source.documents),
    }


def _role(row: Row[Any]) -> str:
    return "both" if row.answers and row.questions else ("answers" if row.answers else "questions")


def _badges(source: _Found) -> list[dict[str, str | None]]:
    """A source that fell through a check or was withdrawn keeps no badge that speaks for it."""
    if not source.sound:
        return []
    found = (_REVIEW_BADGES.get(source.row.review_status), _CHECK_BADGES.get(source.row.check_status))
    return [
        {"id": badge[0], "label": badge[1], "tone": badge[2], "rule": badge[3], "rule_url": None} for badge in found if badge is not None
    ]


def _warnings(row: Row[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if row.withdrawn_at is not None:
        found.append({"kind": "withdrawn", "text": "This source was withdrawn.", "at": _day(row.withdrawn_at)})
    if row.check_status in FAILED_CHECKS:
        found.append({"kind": row.check_status, "text": _CHECK_WORDS[row.check_status], "at": _day(row.checked_at)})
    return found


def _evaluated(scores: Iterable[Sequence[Any]]) -> dict[str, Any] | None:
    """The one figure of the newest held-out evaluation that says most by itself; null where nothing was evaluated."""
    ranked = sorted(scores, key=lambda score: (_TELLING.index(score[1]) if score[1] in _TELLING else len(_TELLING), score[1]))
    if not ranked:
        return None
    suite, metric, value, low, high, n = ranked[0]
    interval = [low, high] if low is not None and high is not None else None
    return {"suite": suite, "metric": metric, "value": value, "interval": interval, "n": n}


def _read_moment(value: Any) -> dt.datetime | None:
    """A moment out of a JSON list, where the databases write it as text."""
    if not isinstance(value, str):
        return None
    moment = dt.datetime.fromisoformat(value)
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def _moment(value: dt.datetime | None) -> str | None:
    return value.isoformat(timespec="seconds").replace("+00:00", "Z") if value is not None else None


def _day(value: dt.datetime | None) -> str | None:
    return value.date().isoformat() if value is not None else None


def _etag(body: Mapping[str, Any], generation: int | None) -> str:
    """Weak: over the whole card without its time, so over the version's digest and the state of every source, and over the alias's generation."""
    # No cache of ours outlives the process, so the program's own spelling of JSON is stable enough here.
    text = json.dumps([body, generation], sort_keys=True, ensure_ascii=True)
    return f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
