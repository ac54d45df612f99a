"""A worker with a puppet for a trainer, as a process of its own that tests may stop, pause and kill: puppet_worker.py HOME URL STORE SECONDS_A_STEP HOST.

HOST is the machine it says it runs on: its own name, or another's, whose processes nobody here may end.
"""

import platform
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent.parent)]

from fakes.puppet_trainer import PuppetTrainer  # noqa: E402  # found through the path above

from jobs.engine.pace import Pace  # noqa: E402
from jobs.engine.worker import Worker  # noqa: E402
from registry.artifacts import open_store  # noqa: E402
from registry.db import Database  # noqa: E402
from registry.settings import Settings  # noqa: E402

FAST = Pace(beat_s=0.1, dead_s=0.6, poll_s=0.02, grace_s=5.0)


def main() -> None:
    """Run until SIGTERM; print each line of each job."""
    home, url, store, seconds, host = sys.argv[1:]
    platform.node = lambda: host
    settings = Settings(home=Path(home), database_url=url, artifacts=store)

    def say(job: str, kind: str, body: object) -> None:
        print(job, kind, body, flush=True)

    worker = Worker(settings, Database(url), open_store(store), PuppetTrainer(float(seconds)), pace=FAST, on_line=say)
    signal.signal(signal.SIGTERM, lambda *_: worker.ask("asked to"))
    print("ready", worker.executor, flush=True)
    print("left", worker.run(), flush=True)


if __name__ == "__main__":
    main()
