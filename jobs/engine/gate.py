"""Asks whether a built version may become what an alias points to; gathers the facts for the policy.

Its own one rule: an older build never takes the alias back from a newer version. A person may, by `registry promote`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from registry import promotion
from registry.models import AdapterVersion, Alias
from registry.policy import Built, Figure, Refused, may_be_promoted

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.artifacts import Verifies


def decide(
    session: "Session", store: "Verifies", version: AdapterVersion, scores: Mapping[str, Mapping[str, Any]], alias: str
) -> dict[str, Any]:
    """{"allowed", "reasons", "found"}: every reason at once, as sentences, and where the alias was when this was decided.

    First is a version whose advisor's alias never moved.
    """
    figures = {metric: Figure(**score) for metric, score in scores.items()}
    first = not promotion.history(session, version.advisor, alias)
    decision = may_be_promoted(Built(promotion.candidate_of(session, store, version), figures, first))
    reasons = list(decision.reasons) if isinstance(decision, Refused) else []
    found = present(session, version, alias)
    if found["version"] > version.number:
        reasons.append(f"{version.advisor.slug}@{found['version']} is {alias}, which is newer; promote it by hand where that is wanted")
    return {"allowed": not reasons, "reasons": reasons, "found": found}


def present(session: "Session", version: AdapterVersion, alias: str) -> dict[str, int]:
    """Where the alias of the version's advisor is: {"version", "generation"}, 0 standing for nothing and for never moved."""
    query = select(Alias.generation, AdapterVersion.number).outerjoin(AdapterVersion, AdapterVersion.id == Alias.version_id)
    row = session.execute(query.where(Alias.advisor_id == version.advisor_id, Alias.name == alias)).one_or_none()
    return {"version": (row.number or 0) if row else 0, "generation": row.generation if row else 0}
