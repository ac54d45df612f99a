"""Many builds at once, and what became of each. One advisor's failure stops no other: neither at ordering nor at building.

A report is computed from the queue and the board at any moment; `save` keeps it on the board, under the wave's own name, as lines of kind 'wave', each
within what a line may weigh. A reason is told in its first 500 characters; the job's own lines have the whole of it.
"""

import datetime as dt
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from registry.errors import RegistryError
from registry.job_board import MAX_BODY, Line
from registry.job_queue import BuildOrder, JobQueue, JobStatus

REPORT_FORMAT = "wave/1"
MAX_REASON = 500  # characters of one reason: a sentence or three
_PAGE = 200
_ROOM = MAX_BODY - 4096  # bytes of fates in one line; the rest is for the report's own figures


@dataclass(frozen=True)
class Fate:
    """What happened to one advisor in a wave. `why`: why it was not promoted, why it failed, or why nothing was ordered; `seconds` from start to end."""

    advisor: str
    job: str | None
    state: str  # queued, running, succeeded, failed, cancelled, or refused where nothing was ordered
    version: int | None
    promoted: str | None
    why: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True)
class Wave:
    """What was ordered, and for whom nothing could be."""

    name: str
    jobs: Mapping[str, str]  # job by advisor
    refused: tuple[Fate, ...]


def new_name(moment: dt.datetime) -> str:
    """A wave's name: the time (UTC) and random letters."""
    return f"wave-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def start(queue: JobQueue, name: str, slugs: Iterable[str], order_of: Callable[[str], BuildOrder], place: str) -> Wave:
    """Order a build of each advisor into the queue `place`. What is refused is told in the result and in the wave's lines, and stops nothing."""
    jobs: dict[str, str] = {}
    refused = []
    for slug in slugs:
        try:
            jobs[slug] = queue.enqueue(order_of(slug), place)
        except RegistryError as error:
            refused.append(Fate(slug, None, "refused", None, None, _short((f"{error.message} {error.hint or ''}".strip(),)), None))
            queue.board.progress(name, "refused", asdict(refused[-1]))
    return Wave(name, jobs, tuple(refused))


def statuses(queue: JobQueue, name: str) -> list[JobStatus]:
    """Every job of a wave, the first ordered first."""
    found: list[JobStatus] = []
    before: int | None = None
    while page := queue.list(wave=name, limit=_PAGE, before=before):
        found += page
        before = page[-1].row.number
    return found[::-1]


def report(queue: JobQueue, name: str) -> dict[str, Any]:
    """{"format", "wave", "counts" by state, "seconds" from the first order to the last end, "advisors": one Fate each}."""
    found = statuses(queue, name)
    refused = [Fate(**{**line.body, "why": tuple(line.body["why"])}) for line in _lines(queue, name) if line.kind == "refused"]
    fates = [*map(fate_of, found), *refused]
    counts: dict[str, int] = {}
    for fate in fates:
        counts[fate.state] = counts.get(fate.state, 0) + 1
    ends = [status.finished_at for status in found if status.finished_at]
    seconds = round((max(ends) - min(s.created_at for s in found)).total_seconds(), 1) if ends else None
    return {"format": REPORT_FORMAT, "wave": name, "counts": counts, "seconds": seconds, "advisors": [asdict(f) for f in fates]}


def _lines(queue: JobQueue, name: str) -> Iterator[Line]:
    after = 0
    while page := queue.board.since(name, after):
        yield from page
        after = page[-1].seq


def _short(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 3]}..." for reason in reasons)


def fate_of(status: JobStatus) -> Fate:
    """What happened to one job."""
    result = status.result or {}
    version = (result.get("train") or {}).get("version")
    ended = result.get("promote") or {}
    why = _short((status.error,) if status.error else ended.get("reasons") or ())
    begun, over = status.started_at, status.finished_at
    seconds = round((over - begun).total_seconds(), 1) if begun and over else None
    return Fate(status.row.advisor, status.job, status.state, version, ended.get("promoted"), why, seconds)


def save(queue: JobQueue, made: Mapping[str, Any]) -> None:
    """Keep a report on the board; a large wave in several lines."""
    parts = list(_parts(made["advisors"]))
    for number, part in enumerate(parts, 1):
        queue.board.progress(str(made["wave"]), "wave", {**made, "part": number, "parts": len(parts), "advisors": part})


def _parts(fates: Iterable[Any]) -> Iterator[list[Any]]:
    """The fates in portions that fit into a line; one portion at least."""
    part: list[Any] = []
    weight = 0
    for fate in fates:
        size = len(json.dumps(fate)) + 2
        if part and weight + size > _ROOM:
            yield part
            part, weight = [], 0
        part.append(fate)
        weight += size
    yield part
