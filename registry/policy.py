"""May this version be served, and may a build promote it unattended? Pure rules over values; whoever gathers the values acts.

Every reason is given at once. A rollback or a promotion by hand skips the rules about scores, and never the ones about broken files or withdrawn sources.

What the build's gate does not know: whether the version is better than the one that is live now (it is compared with its base, on what was held out of its
own data), and whether its answers are good: loss is a proxy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

# How much worse than its base (nats per token of held-out answers) a later version may still be by its interval's upper end: 5% of perplexity.
# Chosen, not measured. Without a margin a version measured on a handful of examples would pass because nothing can be told from them.
MARGIN = 0.05


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


@dataclass(frozen=True)
class Figure:
    """One score: its value, how many items are behind it, and its 95% interval where one was computed."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Built:
    """What the gate of a build needs to know: the candidate, its scores of the suite heldout by metric, and whether its advisor was never served before."""

    candidate: Candidate
    heldout: Mapping[str, Figure]
    is_first: bool


def may_be_promoted(built: Built) -> Decision:
    """Allow a version that may be served and was measured: better than its base for the advisor's first promotion, and not worse for the later ones.

    The measure is loss_difference, the adapter's held-out loss less the base's (nats per token, paired by example); below 0 is better. Otherwise every reason
    is given, a sentence each.
    """
    served = may_be_served(built.candidate)
    reasons = [*(served.reasons if isinstance(served, Refused) else ()), *_unproved(built)]
    return Refused(tuple(reasons)) if reasons else Allowed()


def _unproved(built: Built) -> list[str]:
    """Why the held-out scores do not carry a promotion."""
    difference = built.heldout.get("loss_difference")
    if difference is None:
        return ["nothing was held out, so the gate cannot see whether it is better than the base"]
    low, high = difference.low, difference.high
    if low is None or high is None:
        return [f"{_items(difference.n)} held out, which gives no interval: the gate cannot tell chance from a difference"]
    if not all(math.isfinite(x) for x in (difference.value, low, high)):
        return ["its held-out loss is no number"]
    found = f"{difference.value:+.3g} nats per token, 95% interval {low:+.3g} to {high:+.3g}, over {difference.n} examples"
    if low > 0:
        return [f"it is worse than the base on what was held out: its loss differs by {found}"]
    if built.is_first and high >= 0:
        return [f"an advisor's first version must be better than the base on what was held out: its loss differs by {found}"]
    if high > MARGIN:
        return [f"it may be worse than the base on what was held out by more than {MARGIN:g}: its loss differs by {found}"]
    return []


def _items(n: int) -> str:
    return f"only {n} {'example was' if n == 1 else 'examples were'}"
