"""What may be said of an advisor in public, in whole sentences. Pure: counts in, plain text out.

The rules (they were agreed as "honest claims"; a sentence that the records contradict must not be printable):
- The pairs trained the adapter, not the sources. Who wrote the pairs is said first, what they were written from second, by how much was really read.
- What was not recorded is said to be not recorded.
- "Peer-reviewed" counts only sources whose citation did not fail its check, that were not withdrawn, and with a training pair in this version.
- No word of expertise, of clinical value or of validation: testing by experts is "not yet" until rankings by experts are stored, and none can be.
- The base's training data is unpublished only where that is so: a hub model, and not one of those whose makers publish theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

_READ = {"full_text": ("the full text", "full texts"), "abstract": ("the abstract", "abstracts"), "excerpt": ("an excerpt", "excerpts")}
_NAMED = 3  # names in a sentence before it counts the rest
# Makers of models that publish what they trained on; for these the usual sentence would be false.
_OPEN_DATA = (
    "allenai/olmo",
    "huggingfacetb/smollm",
    "eleutherai/pythia",
    "eleutherai/gpt-neo",
    "openlm-research/",
    "cerebras/cerebras-gpt",
)


@dataclass(frozen=True)
class Written:
    """Pairs of one origin and generator: how many, and how many of them people have read."""

    origin: str
    generator: str | None
    count: int
    read: int = 0


@dataclass(frozen=True)
class Facts:
    """The counts of one version's training pairs. `extents` counts documents by how much of them was read; None is 'not recorded'.

    `kind` is the version's: a full fine-tune is not called an adapter.
    """

    written: tuple[Written, ...] = ()
    with_source: int = 0
    extents: dict[str | None, int] = field(default_factory=dict)
    peer_reviewed: int = 0
    publishers: tuple[str, ...] = ()
    kind: str = "lora"

    @property
    def total(self) -> int:
        """All training pairs."""
        return sum(group.count for group in self.written)

    def by_origin(self, *origins: str) -> int:
        """Pairs of these origins."""
        return sum(group.count for group in self.written if group.origin in origins)

    @property
    def read_by_people(self) -> int:
        """Pairs that people have read."""
        return sum(group.read for group in self.written)

    @property
    def generators(self) -> list[tuple[str, int]]:
        """Models that wrote or edited pairs, the busiest first."""
        counts: dict[str, int] = {}
        for group in self.written:
            if group.origin != "human":
                name = group.generator or "a model that is not recorded"
                counts[name] = counts.get(name, 0) + group.count
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


# Makers that have said nothing, or only generalities, of what their open-weight models were trained on.
_CLOSED_DATA = ("mistralai/", "meta-llama/", "microsoft/phi", "qwen/", "google/gemma")


def disclosure(name: str) -> str:
    """What every card says of its advisor."""
    return f"{name} is an AI character, not a licensed professional."


def counted(number: int, one: str, many: str | None = None) -> str:
    """1 document, 2 documents."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def named(items: Sequence[str], what: str) -> str:
    """a, b, c and 5 more `what`."""
    rest = len(items) - _NAMED
    return listed(items) if rest <= 0 else listed([*items[:_NAMED], counted(rest, f"more {what}")])


def sentence(facts: Facts) -> str:
    """How many conversations trained the adapter or model, who wrote them, and from what."""
    what = "this model" if facts.kind == "full" else "this adapter"
    if not facts.total:
        return f"No example conversation is recorded for {what}."
    conversations = counted(facts.total, "example conversation")
    authors = _authors(facts)
    # A page that people wrote is the conversation itself; only a model's text is written *from* something.
    if len(authors) == 1 and facts.with_source == facts.total and not facts.by_origin("human"):
        return f"{conversations}, {authors[0][1]} {_from(facts)}, trained {what}."
    if len(authors) == 1:
        return f"{conversations}, {authors[0][1]}, trained {what}. {_resting(facts)}"
    parts = listed([f"{count:,} {words}" for count, words in authors])
    return f"{conversations} trained {what}: {parts}. {_resting(facts)}"


def _authors(facts: Facts) -> list[tuple[int, str]]:
    """Pairs by who wrote them, in words."""
    models = sorted({g.generator or "a model that is not recorded" for g in facts.written if g.origin == "synthesised"})
    helpers = sorted({g.generator or "a model that is not recorded" for g in facts.written if g.origin == "edited"})
    rows = [
        (facts.by_origin("synthesised"), f"written by {named(models, 'model')}"),
        (facts.by_origin("edited"), f"written by people and {named(helpers, 'model')} together"),
        (facts.by_origin("human"), "written by people"),
    ]
    return [(count, words) for count, words in rows if count]


def _from(facts: Facts) -> str:
    return f"from {listed(_documents(facts.extents))}"


def _resting(facts: Facts) -> str:
    """What the pairs rest on where not every pair names a source, or several kinds of author wrote them."""
    if not facts.with_source:
        return "None of them names a source." if facts.total > 1 else "It names no source."
    rest = facts.total - facts.with_source
    found = listed(_documents(facts.extents))
    if not rest:
        return f"They rest on {found}."
    return f"{facts.with_source:,} of them {'rests' if facts.with_source == 1 else 'rest'} on {found}; {rest:,} {'names' if rest == 1 else 'name'} no source."


def _documents(extents: dict[str | None, int]) -> list[str]:
    """How much was read of how many documents."""
    read = [key for key in _READ if extents.get(key)]
    number = sum(extents[key] for key in read)
    phrases = []
    if number == 1:
        phrases.append(f"{_READ[read[0]][0]} of 1 document")
    elif number:
        phrases.append(f"{listed([_READ[key][1] for key in read])} of {number:,} documents")
    if bare := extents.get("metadata_only", 0):
        phrases.append(f"the bibliographic record alone of {counted(bare, 'document')}")
    if unknown := extents.get(None, 0):
        phrases.append(f"{counted(unknown, 'document')} of which it is not recorded how much was read")
    return phrases


def lines(facts: Facts) -> list[str]:
    """The card's short lines."""
    if not facts.total:
        return []
    found = [counted(facts.peer_reviewed, "peer-reviewed study", "peer-reviewed studies")] if facts.peer_reviewed else []
    if facts.publishers:
        found.append(f"Material from {named(facts.publishers, 'publisher')}")
    for origin, words in (("synthesised", "written by an AI model"), ("edited", "written by people and an AI model together")):
        if count := facts.by_origin(origin):
            read = sum(group.read for group in facts.written if group.origin == origin)
            checked = f"{read:,} recorded as read by people" if read else "none recorded as read by people"
            found.append(f"{counted(count, 'example conversation')} {words}; {checked}")
    if human := facts.by_origin("human"):
        found.append(f"{counted(human, 'example conversation')} written by people")
    found.append("Testing by domain experts: not yet")
    return found


def base_note(kind: str, repo: str, note: str | None) -> str:
    """What is known of the base's own training."""
    if kind == "builtin":
        return note or f"{repo} is a tiny model built into this program: it proves that everything works and does not speak sense."
    if kind == "local":
        return f"Builds on {repo}, a model from a folder of the operator's; its training data is not recorded."
    if repo.lower().startswith(_OPEN_DATA):
        return f"Builds on {repo}, whose maker has published what it was trained on; nothing of that is listed here."
    if repo.lower().startswith(_CLOSED_DATA):
        return f"Builds on {repo}, whose maker has not published its training data."
    return f"Builds on {repo}; whether its maker has published its training data is not recorded here."
