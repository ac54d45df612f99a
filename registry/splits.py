"""Which pairs are held out from training, so that held-out loss measures what was not learned by heart. Pure and deterministic.

Pairs that share a question or a source stay on the same side: otherwise the answer to a held-out question would have been read from the same page in
training. The groups are the connected components of that relation. Held-out pairs are not training pairs and never count on a card.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# A group larger than this share is never held out: too little would be left to learn from.
MAX_SHARE = 0.3


@dataclass(frozen=True)
class SplitRule:
    """How a dataset is split. It is part of the dataset's digest, since it decides what was trained on."""

    method: str = "connected-groups/1"
    fraction: float = 0.1
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """The value that is hashed and stored."""
        return asdict(self)


@dataclass(frozen=True)
class Member:
    """One pair as the split sees it: its digest and whatever ties it to others (its question, its sources)."""

    digest: str
    ties: frozenset[str]


def heldout(members: Sequence[Member], rule: SplitRule) -> list[bool]:
    """For each pair, whether it is held out. All False when no group is small enough, or when the fraction is 0."""
    target = round(rule.fraction * len(members))
    chosen: set[int] = set()
    if target > 0:
        groups = _groups(members)
        order = sorted(groups, key=lambda group: _draw(min(members[i].digest for i in group), rule.seed))
        for group in order:
            if len(chosen) + len(group) <= target:
                chosen.update(group)
        if not chosen:
            smallest = min(order, key=len)
            if len(smallest) <= MAX_SHARE * len(members):
                chosen.update(smallest)
    return [i in chosen for i in range(len(members))]


def _draw(digest: str, seed: int) -> str:
    # A hash as the random draw: it depends on the content and the seed alone, not on a library's generator.
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def _groups(members: Sequence[Member]) -> list[list[int]]:
    """Connected components over shared ties (union-find with path halving)."""
    parent = list(range(len(members)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, member in enumerate(members):
        for tie in (*member.ties, member.digest):
            parent[root(i)] = root(first.setdefault(tie, i))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(members)):
        groups[root(i)].append(i)
    return list(groups.values())
