"""Hands the jobs of dead workers to the living.

A worker is dead when its row in the heartbeat table is older than the deadline, or when it has none. Its row is taken by compare-and-swap, so that one
reaper wins it and the dead one, should it only have slept, finds its row taken and stands down. Then its jobs go back to the queue; DBOS does that by a
compare-and-swap of its own (pending and still this executor's), so a reaper that died half way is simply followed by the next, and doing it twice changes
nothing. DBOS alone recovers only what carries the same executor's name.

A worker on the same machine whose row was taken and whose process stands still (Ctrl-Z, SIGSTOP) is ended: it would hold its training's lock for ever.
"""

from collections.abc import Sequence

from dbos import DBOS

from jobs.engine import processes
from registry.job_queue import WORKFLOW, JobQueue, in_words


def reap(jobs: JobQueue, dead_s: float, by: str) -> list[str]:
    """Take what is dead and give its jobs back to their queues. Returns the executors that were dead. Raises RegistryError.

    A worker is judged by its own deadline; `dead_s` is for those that told none.
    """
    board = jobs.board
    known = {worker.executor: worker.facts for worker in board.workers()}
    won = board.claim_dead(dead_s, by)
    orphaned = _holders(jobs) - {worker.executor for worker in board.workers() if worker.age_s <= worker.deadline(dead_s)} - {by}
    dead = sorted({*won, *orphaned})
    for executor in won:
        processes.end_stopped(known.get(executor, {}))
    hand_back(dead)
    for executor in won:
        board.retire(executor)
    return dead


def hand_back(executors: Sequence[str]) -> None:
    """Put every job that these executors were running back into its queue; its finished steps stay recorded."""
    if executors:
        with in_words():
            DBOS._recover_pending_workflows(list(executors))  # noqa: SLF001  # what DBOS's own recovery calls; its public resume has no compare-and-swap


def _holders(jobs: JobQueue) -> set[str]:
    """The executors that DBOS believes to be running a job."""
    with in_words():
        pending = jobs.client.list_workflows(status="PENDING", name=WORKFLOW, load_input=False, load_output=False)
    return {workflow.executor_id for workflow in pending if workflow.executor_id}
