"""The Source Card's shape for the OpenAPI document; lineage/card.py makes the cards, and a test holds every one against this."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from registry.api.schemas import DIGEST, REVISION, Given


class CardAdvisor(Given):
    """Whose card it is."""

    slug: str
    aliases: list[str] = Field(description="Its other names.")
    name: str
    role: str | None
    is_ai: Literal[True]
    disclosure: str


class CardVersion(Given):
    """The version the card is about."""

    ref: str
    number: int
    digest: str
    state: Literal["ready", "withdrawn"]
    live_since: str | None = Field(description="Null where another version is live.")
    dataset: str


class CardBase(Given):
    """The base model it builds on."""

    id: str
    revision: str | None
    kind: Literal["builtin", "hub", "local"]
    note: str


class CardSummary(Given):
    """The card in words."""

    sentence: str
    lines: list[str]


class ClassCount(Given):
    """Sources of one class."""

    class_: str = Field(alias="class")
    label: str
    count: int


class ExtentCount(Given):
    """Documents by how much of them was read; null is 'not recorded'."""

    extent: str | None
    label: str
    count: int


class CardDocuments(Given):
    """What was read."""

    total: int
    by_extent: list[ExtentCount]


class GeneratorCount(Given):
    """Conversations that a model wrote or edited."""

    model: str
    count: int


class CardExamples(Given):
    """The training conversations; held-out ones count nowhere."""

    total: int
    with_source: int
    without_source: int
    synthesised: int
    edited: int
    human_written: int
    read_by_people: int
    calibration_items: int
    generators: list[GeneratorCount]


class CardTotals(Given):
    """Counts over all sources, whichever page is shown."""

    sources: int
    peer_reviewed: int
    unchecked: int
    failed_checks: int
    withdrawn: int
    by_class: list[ClassCount]
    documents: CardDocuments
    examples: CardExamples


class CardAuthor(Given):
    """A person by family and given name, or a group by its literal name."""

    family: str | None = None
    given: str | None = None
    literal: str | None = None


class CardIssued(Given):
    """When a work appeared."""

    year: int | None
    month: int | None
    display: str


class CardCheck(Given):
    """Whether the citation was compared with a registry."""

    status: Literal["unchecked", "verified", "mismatched", "not_found", "retracted"]
    at: str | None
    registry: str | None


class CardLink(Given):
    """Whether the address was followed."""

    status: str
    archive_url: str | None


class CardBadge(Given):
    """A short label with its rule."""

    id: str
    label: str
    tone: Literal["good", "neutral"]
    rule: str
    rule_url: str | None


class CardWarning(Given):
    """Why a source should be read with care."""

    kind: Literal["withdrawn", "mismatched", "not_found", "retracted"]
    text: str
    at: str | None


class CardUse(Given):
    """How many training conversations rest on a source, which share of all that is, and what it shaped."""

    pairs: int
    share: float
    role: Literal["answers", "questions", "both"]


class CardDocument(Given):
    """One reading of a source."""

    extent: str | None
    retrieved_at: str | None
    sha256: str | None


class CardSource(Given):
    """One source."""

    id: str
    title: str
    authors: list[CardAuthor]
    authors_total: int
    issued: CardIssued
    container: str | None
    publisher: str | None
    url: str | None
    doi: str | None
    short: str
    citation_text: str
    review_status: str
    check: CardCheck
    link: CardLink
    badges: list[CardBadge]
    warnings: list[CardWarning]
    use: CardUse
    documents: list[CardDocument]
    documents_total: int


class CardGroup(Given):
    """The sources of one class, the most used first. `next` is the address of the following ones, or null."""

    class_: str = Field(alias="class")
    label: str
    order: int
    count: int
    next: str | None
    sources: list[CardSource]


class CardNotice(Given):
    """Something a reader must know first."""

    kind: Literal["recall", "version", "none"]
    text: str
    at: str | None
    affected_version: str | None


class CardEvaluation(Given):
    """One figure of the newest held-out evaluation."""

    suite: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    n: int


class CardLinks(Given):
    """Addresses that exist; the others are null."""

    self: str
    bibliography: str | None
    methodology: str | None
    csl: str | None
    bibtex: str | None
    history: str | None


class SourceCard(Given):
    """What an advisor's adapter was trained on. `state` is live, withheld, none, version, or the alias that was asked for."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal["source-card/1"] = Field(alias="schema")
    advisor: CardAdvisor
    state: str
    alias: str | None
    version: CardVersion | None
    base_model: CardBase | None
    summary: CardSummary
    totals: CardTotals | None
    groups: list[CardGroup]
    notices: list[CardNotice]
    evaluated: CardEvaluation | None
    links: CardLinks
    generated_at: str


EXAMPLE: dict[str, Any] = {
    "schema": "source-card/1",
    "advisor": {
        "slug": "elena",
        "aliases": ["dr-elena"],
        "name": "Elena",
        "role": "Burnout recovery guide",
        "is_ai": True,
        "disclosure": "Elena is an AI character, not a licensed professional.",
    },
    "state": "live",
    "alias": "live",
    "version": {
        "ref": "elena@3",
        "number": 3,
        "digest": DIGEST,
        "state": "ready",
        "live_since": "2026-11-20T09:00:00Z",
        "dataset": DIGEST,
    },
    "base_model": {
        "id": "mistralai/Mistral-7B-Instruct-v0.3",
        "revision": REVISION,
        "kind": "hub",
        "note": "Builds on mistralai/Mistral-7B-Instruct-v0.3, whose maker has not published its training data.",
    },
    "summary": {
        "sentence": "48 example conversations, written by a named model from the abstract of 1 document, trained this adapter.",
        "lines": [
            "1 peer-reviewed study",
            "48 example conversations written by an AI model; none recorded as read by people",
            "Testing by domain experts: not yet",
        ],
    },
    "totals": {
        "sources": 1,
        "peer_reviewed": 1,
        "unchecked": 1,
        "failed_checks": 0,
        "withdrawn": 0,
        "by_class": [{"class": "academic", "label": "Academic research", "count": 1}],
        "documents": {"total": 1, "by_extent": [{"extent": "abstract", "label": "abstract", "count": 1}]},
        "examples": {
            "total": 48,
            "with_source": 48,
            "without_source": 0,
            "synthesised": 48,
            "edited": 0,
            "human_written": 0,
            "read_by_people": 0,
            "calibration_items": 0,
            "generators": [{"model": "a named model", "count": 48}],
        },
    },
    "groups": [
        {
            "class": "academic",
            "label": "Academic research",
            "order": 1,
            "count": 1,
            "next": None,
            "sources": [
                {
                    "id": "src_1",
                    "title": "Burnout and Daily Recovery: A Day Reconstruction Study",
                    "authors": [{"family": "Oerlemans", "given": "Wido G. M."}, {"family": "Bakker", "given": "Arnold B."}],
                    "authors_total": 2,
                    "issued": {"year": 2014, "month": None, "display": "2014"},
                    "container": "Journal of Occupational Health Psychology",
                    "publisher": None,
                    "url": "https://doi.org/10.1037/a0036904",
                    "doi": "10.1037/a0036904",
                    "short": "Oerlemans & Bakker (2014)",
                    "citation_text": "Oerlemans, W. G. M., & Bakker, A. B. (2014). Burnout and Daily Recovery: A Day Reconstruction Study. "
                    "Journal of Occupational Health Psychology, 19(3), 303-314. https://doi.org/10.1037/a0036904",
                    "review_status": "peer_reviewed",
                    "check": {"status": "unchecked", "at": None, "registry": None},
                    "link": {"status": "unchecked", "archive_url": None},
                    "badges": [{"id": "peer-reviewed", "label": "Peer-reviewed", "tone": "good", "rule": "R3", "rule_url": None}],
                    "warnings": [],
                    "use": {"pairs": 48, "share": 1.0, "role": "answers"},
                    "documents": [{"extent": "abstract", "retrieved_at": None, "sha256": None}],
                    "documents_total": 1,
                }
            ],
        }
    ],
    "notices": [],
    "evaluated": {"suite": "heldout", "metric": "loss_difference", "value": -0.11, "interval": [-0.16, -0.06], "n": 51},
    "links": {
        "self": "/advisors/elena/sources",
        "bibliography": None,
        "methodology": None,
        "csl": None,
        "bibtex": None,
        "history": None,
    },
    "generated_at": "2026-11-22T12:00:00Z",
}
