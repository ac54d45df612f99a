"""The frozen values that walk through the pipeline, and their JSON. Pure: no I/O, no clock, no randomness.

Every value can be written as JSON and read back unchanged (`as_json`, `from_json`), because a run is resumed from what it wrote down.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

from registry.errors import RegistryError

QUERY_KINDS = ("expert_interview", "blog_or_forum", "how_to", "case_study", "study")
# The composition of a set (share of pairs per category); document_analysis is off unless asked for.
CATEGORIES = ("coaching_technique", "scenario", "voice_style", "multi_turn", "document_analysis")
T = TypeVar("T")


def text_sha256(text: str) -> str:
    """`sha256:<hex>` of the text's UTF-8 bytes."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class PipelineFailed(RegistryError):
    """A run that ended without a usable training set; the message says why and the hint what to do."""

    code = "pipeline_failed"


class _Json:
    """Shallow JSON of a frozen dataclass; tuples become lists and come back as tuples."""

    def as_json(self) -> dict[str, Any]:
        """Plain lists and dicts."""
        return _plain(asdict(self))  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The value that `as_json` wrote."""
        return cls(**{name: _tuples(item) for name, item in value.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class AdvisorDomain(_Json):
    """What an advisor is about, as read from its system prompt. Research sees `primary_domain`, `expertise_areas` and `audience` only."""

    name: str
    primary_domain: str
    expertise_areas: tuple[str, ...]
    tone: tuple[str, ...]
    style_phrases: tuple[str, ...]
    audience: str


@dataclass(frozen=True)
class Query(_Json):
    """One research question; `kind` is one of QUERY_KINDS, `area` one of the domain's expertise areas."""

    id: str
    text: str
    kind: str
    area: str


@dataclass(frozen=True)
class Finding(_Json):
    """One passage of one source, as it was read. `text` is what a pair may rest on; `document_sha256` the digest of all that was read of the document.

    role 'answer' may carry advice, 'question' may only shape a question (source standards decide; `rule` names the rule). `flags` are the safety rules
    that fired on it: a flagged finding is never used. `csl` is CSL-JSON without an id.
    """

    id: str
    url: str
    title: str
    text: str
    agent: str
    query: str
    retrieved_at: str
    extent: str
    document_sha256: str
    role: str
    class_: str
    review_status: str
    rule: str
    authors: tuple[str, ...] = ()
    published: str | None = None
    doi: str | None = None
    csl: dict[str, Any] = field(default_factory=dict)
    key_findings: tuple[str, ...] = ()
    citation_count: int | None = None
    flags: tuple[str, ...] = ()
    call: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The value that `as_json` wrote; CSL keeps its lists."""
        return cls(**{name: item if name == "csl" else _tuples(item) for name, item in value.items()})


def finding_id(url: str, text: str, role: str) -> str:
    """`f_` and 12 hex digits: the same passage of the same page for the same use is the same finding."""
    return "f_" + hashlib.sha256(f"{url}\x00{role}\x00{text}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Cell(_Json):
    """One planned pair: what it shall be about, before anything is written. `turns` counts the user's turns."""

    id: str
    category: str
    persona: str
    scenario: str
    technique: str
    voice: str
    turns: int
    seed: int


@dataclass(frozen=True)
class Pair(_Json):
    """One written pair or conversation; `messages` are (role, content), user first and assistant last. `findings` are ids that were given to the writer."""

    id: str
    cell: str
    category: str
    messages: tuple[tuple[str, str], ...]
    findings: tuple[str, ...]
    technique: str
    call: str


@dataclass(frozen=True)
class Drop(_Json):
    """Something that was left out, and why. `step` names the step, `reason` a rule id; `neighbour` and `score` what it is too much like."""

    item: str
    step: str
    reason: str
    detail: str = ""
    neighbour: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Gap(_Json):
    """Something that could not be had: the step or agent, a reason code, a sentence for people."""

    step: str
    reason: str
    message: str
    count: int = 1


@dataclass(frozen=True)
class AgentResult:
    """What one research agent brings back; an agent never raises but for a fatal reason, it reports gaps."""

    findings: tuple[Finding, ...] = ()
    gaps: tuple[Gap, ...] = ()
    drops: tuple[Drop, ...] = ()
