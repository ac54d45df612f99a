"""The durable workflow: the steps of an order one after the other, each recorded by DBOS when it ended and then never run again.

Rules: everything that goes in or comes out is JSON, written by DBOS's portable serializer, and a row that says it holds a pickle is refused. One name and
one application version for ever, 'jobs/1': DBOS hides a job from a program of another version. The process it runs in is seen through `Hands` alone.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer

from jobs.engine import stages
from registry.errors import RegistryError
from registry.job_queue import APP_NAME, APP_VERSION, SCHEMA, WORKFLOW, BuildOrder, dbos_url, refuse_pickles

Facts = Mapping[str, Any]


class Hands(Protocol):
    """What the workflow needs of the process it runs in."""

    def ordered(self, job: str) -> Mapping[str, Any] | None:
        """The order as somebody put it down on the board; None where nobody did."""

    def tools(self, job: str, order: BuildOrder) -> stages.Tools:
        """What the steps of this job work with."""

    def began(self, job: str, step: str) -> None:
        """A step begins."""

    def ended(self, job: str, step: str, result: Facts, seconds: float) -> None:
        """A step ended and is about to be recorded."""

    def failed(self, job: str, step: str, error: Exception) -> Exception:
        """A step failed, and with it the job. Returns the error to record: whoever may read the job reads it."""

    def working(self, job: str) -> Any:
        """A context that lasts as long as this process runs the job."""


def config(home: Path, database_url: str, executor: str) -> DBOSConfig:
    """How DBOS runs in this process: unique executor, fixed version, JSON only, nothing told to anybody."""
    return {
        "name": APP_NAME,
        "system_database_url": dbos_url(home, database_url),
        "dbos_system_schema": SCHEMA,
        "executor_id": executor,
        "application_version": APP_VERSION,
        "serializer": DBOSPortableJSONSerializer(),
        "run_migrations": False,  # `registry init` makes the tables; a worker's role may not
        "enable_otlp": False,
        "log_level": "CRITICAL",  # a job's failure is told in words by the worker; what nobody foresaw with its traceback, too
        "sys_db_pool_size": 5,
        "scheduler_polling_interval_sec": 3600.0,  # nothing is scheduled here
    }


def register(hands: Hands) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make the workflow known to DBOS, before it is launched."""
    refuse_pickles()

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=100)
    def build(order: dict[str, Any]) -> dict[str, Any]:
        job = str(DBOS.workflow_id)
        with hands.working(job):
            return _steps(hands, job, order)

    return build


def _steps(hands: Hands, job: str, value: dict[str, Any]) -> dict[str, Any]:
    order = _order(hands, job, value)
    tools = hands.tools(job, order)
    done: dict[str, Facts] = {}
    for name in stages.steps_of(order):
        done[name] = DBOS.run_step({"name": name}, _step, hands, tools, name, job, order, dict(done))
    return {name: dict(facts) for name, facts in done.items()}


def _order(hands: Hands, job: str, value: dict[str, Any]) -> BuildOrder:
    try:
        return _judged(hands, job, value)
    except RegistryError as error:
        raise hands.failed(job, "order", error) from None


def _judged(hands: Hands, job: str, value: dict[str, Any]) -> BuildOrder:
    """The order, if it is the one that somebody put down: the queue's own copy of it may be changed by every worker, the board's by none."""
    from trainer.recipe import check_settings

    if hands.ordered(job) != value:
        raise RegistryError(
            f"What the queue holds for the job '{job}' is not the order that was put down.",
            hint="Find out who wrote into the queue's tables, then order it again.",
        )
    order = BuildOrder.from_json(value)
    check_settings(order.recipe)  # before anything is paid for
    return order


def _step(hands: Hands, tools: stages.Tools, name: str, job: str, order: BuildOrder, done: Mapping[str, Facts]) -> dict[str, Any]:
    hands.began(job, name)
    begun = time.monotonic()
    try:
        result = stages.run(tools, name, job, order, done)
    except Exception as error:
        recorded = hands.failed(job, name, error)
        if recorded is not error:
            raise recorded from None
        raise
    hands.ended(job, name, result, time.monotonic() - begun)
    return result
