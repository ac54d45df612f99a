"""Asks the policy whether a built version may become what an alias points to; gathers the facts, decides nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from registry import promotion
from registry.models import AdapterVersion
from registry.policy import Built, Figure, Refused, may_be_promoted

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.artifacts import Verifies


def decide(
    session: "Session", store: "Verifies", version: AdapterVersion, scores: Mapping[str, Mapping[str, Any]], alias: str
) -> dict[str, Any]:
    """{"allowed", "reasons"}: every reason at once, as sentences. First is a version whose advisor's alias never moved."""
    figures = {metric: Figure(**score) for metric, score in scores.items()}
    first = not promotion.history(session, version.advisor, alias)
    decision = may_be_promoted(Built(promotion.candidate_of(session, store, version), figures, first))
    reasons = list(decision.reasons) if isinstance(decision, Refused) else []
    return {"allowed": not reasons, "reasons": reasons}
