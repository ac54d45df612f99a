"""How fast a worker beats, looks for work and gives up. Values only.

A worker that has not beaten for `dead_s` is dead to the others, whatever it is doing; it must notice that itself before it changes anything
(the worker's `check`), so `dead_s` is several beats long: one beat lost to a busy database is no death.
"""

import os
import secrets
import socket
from dataclasses import dataclass

from registry.errors import Invalid
from trainer.spec import Drive

# One job's training and the next one's preparation overlap: curating, exporting and planning cost seconds to minutes, in which a GPU would idle.
# Measured for a wave of tiny jobs: 1-8% of the time lost with 2, 70% with DBOS's defaults (one at a time, asked for once a second).
PREFETCH = 2


@dataclass(frozen=True)
class Pace:
    """Seconds: between two beats, after which a silent worker is dead, between two looks into the queue, to end in, and between two saved states."""

    beat_s: float = 5.0
    dead_s: float = 30.0
    poll_s: float = 0.2
    grace_s: float = (
        60.0  # a training that is asked to stop writes its state first; a 7B one takes seconds, a sharded 70B one half a minute
    )
    save_s: float = Drive().save_state_every

    def __post_init__(self) -> None:
        if not self.save_s > 0:
            raise Invalid(f"A training's state is saved every so many seconds, more than 0; found {self.save_s:g}.")
        if not (self.beat_s > 0 and 3 * self.beat_s <= self.dead_s and self.poll_s > 0 and self.grace_s >= 0):
            raise Invalid(
                f"A worker is dead after at least three beats; found a beat every {self.beat_s:g} s and death after {self.dead_s:g} s.",
                hint="Leave --beat and --dead-after at their defaults, or make --dead-after longer.",
            )


def new_executor() -> str:
    """A name that no other process has or had: machine, process id and random letters.

    DBOS's own default is the same for every process, and then a second worker runs what the first is running (tried).
    """
    return f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(4)}"


def neutral(executor: str) -> str:
    """The random letters of such a name: they tell workers apart, and say nothing of the machine to those who may read a job's lines."""
    return executor.rsplit("-", 1)[-1]
