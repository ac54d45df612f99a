"""May this version be served? Pure rules over values; registry/promotion.py gathers the values and acts.

Every reason is given at once. A rollback skips the rules about scores, and never the ones about broken files or withdrawn sources.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """What the rules need to know of a version."""

    ref: str
    state: str
    advisor_retired: bool
    file_problems: tuple[str, ...]
    withdrawn_sources: tuple[str, ...]
    blocked_sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Allowed:
    """The move may happen."""


@dataclass(frozen=True)
class Refused:
    """The move may not happen, for these reasons."""

    reasons: tuple[str, ...]


Decision = Allowed | Refused


def may_be_served(candidate: Candidate) -> Decision:
    """Allow a ready version whose files verify and whose sources stand; otherwise list every reason."""
    reasons: list[str] = []
    if candidate.advisor_retired:
        reasons.append("the advisor is retired")
    if candidate.state != "ready":
        reasons.append(f"{candidate.ref} is {candidate.state}")
    reasons += [f"its files do not verify: {problem}" for problem in candidate.file_problems]
    reasons += [f"it was trained on a withdrawn source: {title}" for title in candidate.withdrawn_sources]
    reasons += [f"it was trained on a source whose citation failed its check: {title}" for title in candidate.blocked_sources]
    return Refused(tuple(reasons)) if reasons else Allowed()
