"""What one run is asked to do. Everything here changes the result and is covered by `digest`; a run is resumed only with the same.

How fast and how dear it may be (concurrency, --max-cost, keys, addresses) lives in `Controls`: it may differ when a run is resumed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from registry.errors import Invalid
from registry.manifest import digest
from registry.vocabulary import CLASSES

PROVIDERS = ("anthropic", "openai")
WEB_SEARCH_TYPES = ("web_search_20250305", "web_search_20260209", "web_search_20260318")
DEFAULT_MODEL = "claude-sonnet-5-5"
MAX_EXAMPLES = 20_000
COMPOSITION = {"coaching_technique": 0.30, "scenario": 0.30, "voice_style": 0.20, "multi_turn": 0.20}


@dataclass(frozen=True)
class Thresholds:
    """Cosine similarities. Above `research` or `instructions` the later item is dropped; from `review` up it is kept and listed for a person to look at."""

    research: float = 0.85
    instructions: float = 0.80
    review: float = 0.65
    generic: float = 0.90
    negation_guard: bool = True


@dataclass(frozen=True)
class PipelineConfig:
    """The order for one training set."""

    examples: int = 200
    provider: str = "anthropic"
    model: str = DEFAULT_MODEL
    research_model: str = DEFAULT_MODEL
    effort: str = "low"
    seed: int = 0
    web_agents: int = 5
    queries: int | None = None
    web_search_type: str = "web_search_20250305"
    searches_per_query: int = 3
    fetch_pages: bool = False
    papers: bool = True
    forum: bool = False
    documents: tuple[str, ...] = ()  # a digest of each file with its name and citation, in order
    threads: tuple[str, ...] = ()  # sha256 of each exported forum file
    batch_size: int = 5
    findings_per_batch: int = 6
    composition: dict[str, float] = field(default_factory=lambda: dict(COMPOSITION))
    thresholds: Thresholds = field(default_factory=Thresholds)
    allowed_domains: dict[str, str] = field(default_factory=dict)  # domain -> class: pages a person vouches for
    denied_domains: tuple[str, ...] = ()
    domain_share: float = 0.2
    top_up_rounds: int = 3
    judge: bool = False
    heldout: float = 0.1  # share of pairs written from sources of their own, so that they can be held out of training
    base_answers: str | None = None  # model name of the base behind the base endpoint; None: not compared
    reader: str = "baml"  # baml | pydantic

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, for the record."""
        facts = asdict(self)
        return {**facts, "documents": list(self.documents), "threads": list(self.threads), "denied_domains": list(self.denied_domains)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PipelineConfig":
        """The order that `as_json` wrote."""
        tuples = {name: tuple(value[name]) for name in ("documents", "threads", "denied_domains")}
        return cls(**{**value, **tuples, "thresholds": Thresholds(**value["thresholds"])})

    @property
    def digest(self) -> str:
        """sha256 over everything above."""
        return digest(self.as_json())

    def check(self) -> None:
        """Raise Invalid with a sentence for a value that makes no sense."""
        rules = [
            (1 <= self.examples <= MAX_EXAMPLES, f"--examples must be 1 to {MAX_EXAMPLES}; found {self.examples}."),
            (self.provider in PROVIDERS, f"--provider is one of {', '.join(PROVIDERS)}; found {self.provider[:40]!a}."),
            (bool(self.model.strip()), "--model names no model."),
            (1 <= self.web_agents <= 20, f"--web-agents must be 1 to 20; found {self.web_agents}."),
            (self.queries is None or 1 <= self.queries <= 200, f"--queries must be 1 to 200; found {self.queries}."),
            (self.web_search_type in WEB_SEARCH_TYPES, f"--web-search is one of {', '.join(WEB_SEARCH_TYPES)}."),
            (1 <= self.batch_size <= 20, f"--batch-size must be 1 to 20; found {self.batch_size}."),
            (
                abs(sum(self.composition.values()) - 1) < 1e-6,
                f"The composition's shares must add up to 1; found {sum(self.composition.values()):g}.",
            ),
            (
                all(0 < t <= 1 for t in (self.thresholds.research, self.thresholds.instructions)),
                "A similarity threshold lies between 0 and 1.",
            ),
            (0 <= self.heldout <= 0.5, f"--heldout must be 0 to 0.5; found {self.heldout:g}."),
            (0 < self.domain_share <= 1, f"--domain-share must be above 0 and at most 1; found {self.domain_share:g}."),
            (all(c in CLASSES for c in self.allowed_domains.values()), f"A domain's class is one of {', '.join(CLASSES)}."),
        ]
        for holds, words in rules:
            if not holds:
                raise Invalid(words)


@dataclass(frozen=True)
class Endpoints:
    """Where the services answer. Settings, never taken from a page or a model."""

    anthropic: str | None = None  # None: the SDK's own
    openai: str | None = None
    base: str | None = None
    semantic_scholar: str = "https://api.semanticscholar.org/graph/v1"
    openalex: str = "https://api.openalex.org"
    arxiv: str = "https://export.arxiv.org/api/query"
    reddit_login: str = "https://www.reddit.com/api/v1/access_token"
    reddit: str = "https://oauth.reddit.com"


@dataclass(frozen=True)
class Keys:
    """Secrets; never written down and never part of a digest."""

    anthropic: str | None = field(default=None, repr=False)
    openai: str | None = field(default=None, repr=False)
    semantic_scholar: str | None = field(default=None, repr=False)
    openalex: str | None = field(default=None, repr=False)
    reddit_id: str | None = field(default=None, repr=False)
    reddit_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Controls:
    """How a run is driven; may differ between a run and its resume."""

    concurrency: int = 20
    max_cost: float | None = None
    max_attempts: int = 5
    timeout_s: float = 180.0
    stream: bool = False
    endpoints: Endpoints = field(default_factory=Endpoints)
    keys: Keys = field(default_factory=Keys)
