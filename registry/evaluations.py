"""Record and fetch the scores of a version: suite, metric, value, 95% interval, n. Scores are added, never changed; the newest of a suite is shown."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from registry import events
from registry.errors import Invalid
from registry.models import AdapterVersion, Evaluation, Score
from registry.refs import clean_text

HELDOUT = "heldout"  # the suite that training measures itself; the Source Card shows it
MAX_N = 2**31 - 1


@dataclass(frozen=True)
class ScoreDraft:
    """One figure before it is recorded; `low` and `high` bound its 95% interval where one was computed."""

    metric: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None


def add(
    session: Session,
    version: AdapterVersion,
    suite: str,
    scores: Sequence[ScoreDraft],
    *,
    actor: str,
    run_id: int | None = None,
    note: str | None = None,
) -> Evaluation:
    """Record a suite of scores of a version. Raises Invalid for none, for doubles, and for values that are not finite."""
    if suite == HELDOUT and run_id is None:
        raise Invalid(f"The suite '{HELDOUT}' is what training itself measures; scores from elsewhere need another name.")
    checked = [_checked(score) for score in scores]
    metrics = [score.metric for score in checked]
    if not checked or len(set(metrics)) != len(metrics):
        raise Invalid(f"Expected at least one score, each metric once; found {', '.join(metrics) or 'none'}.")
    evaluation = Evaluation(
        version_id=version.id,
        suite=clean_text(suite, "A suite's name", limit=200),
        run_id=run_id,
        note=clean_text(note, "A note") if note else None,
        created_at=events.now(),
        created_by=actor,
        scores=[Score(metric=s.metric, value=s.value, low=s.low, high=s.high, n=s.n) for s in checked],
    )
    session.add(evaluation)
    session.flush()
    body = {"number": version.number, "suite": evaluation.suite, "scores": {s.metric: s.value for s in checked}}
    events.append(session, "scores:added", actor, body, version.advisor)
    return evaluation


def _checked(score: ScoreDraft) -> ScoreDraft:
    metric = clean_text(score.metric, "A metric's name", limit=200).strip()
    figures = [score.value, *(x for x in (score.low, score.high) if x is not None)]
    if not metric or not all(math.isfinite(x) for x in figures):
        raise Invalid(f"Expected a named metric with finite figures; found {metric!a} = {score.value}.")
    if score.low is not None and score.high is not None and not score.low <= score.value <= score.high:
        raise Invalid(f"{metric}: expected low <= value <= high; found {score.low}, {score.value}, {score.high}.")
    if not 1 <= score.n <= MAX_N:
        raise Invalid(f"{metric}: expected n, the number of items behind the figure, to be between 1 and {MAX_N}; found {score.n}.")
    return score


def read_file(text: str, name: str) -> tuple[str, list[ScoreDraft]]:
    """Read {"suite": ..., "scores": [{"metric", "value", "n", "low"?, "high"?}]}. Raises Invalid, naming the file and what was found."""
    try:
        data = json.loads(text)
        suite = data["suite"]
        scores = [
            ScoreDraft(str(s["metric"]), _number(s["value"]), _whole(s["n"]), _optional(s.get("low")), _optional(s.get("high")))
            for s in data["scores"]
        ]
    except json.JSONDecodeError as error:
        raise Invalid(f"{name}: not readable as JSON: {error}.") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        shape = '{"suite": "...", "scores": [{"metric": "...", "value": 0.5, "n": 20, "low": 0.4, "high": 0.6}]}'
        raise Invalid(f"{name}: expected {shape}; {type(error).__name__} at {error}.") from None
    if not isinstance(suite, str):
        raise Invalid(f"{name}: expected suite as text.")
    return suite, scores


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!a}, which is no number")
    return float(value)


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!a}, which is no whole number")
    return value


def latest(session: Session, version_ids: Iterable[int]) -> dict[int, list[Evaluation]]:
    """The newest evaluation of every suite, by version id, ordered by suite. Two statements, however many versions."""
    newest = (
        select(func.max(Evaluation.id))
        .where(Evaluation.version_id.in_(list(version_ids)))
        .group_by(Evaluation.version_id, Evaluation.suite)
    )
    found: dict[int, list[Evaluation]] = {}
    query = select(Evaluation).where(Evaluation.id.in_(newest)).options(selectinload(Evaluation.scores)).order_by(Evaluation.suite)
    for evaluation in session.scalars(query):
        found.setdefault(evaluation.version_id, []).append(evaluation)
    return found
