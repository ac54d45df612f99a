"""Trainings in this process, their events as JSON lines on stdout, everything else on stderr.

    python -m trainer SPEC.json         one training
    python -m trainer plan SPEC.json    what a training would do, without loading the base
    python -m trainer serve             one training after the other: specs as JSON lines on stdin; the base stays in memory between them

Events: {"event": "phase", "name"}, {"event": "step", "step", "of", "loss"}, {"event": "heldout", "step", "of"}, {"event": "resumed", "step", "of"},
{"event": "plan", ...}, {"event": "warning", "message"}, {"event": "error", "code", "message", "hint", "sound"} ("sound": the process can train on), {"event": "done"}. Each training ends with done or error.
Exit code 0 after done, 143 after the error "paused", 1 after another. With --parent-pipe the process ends as soon as its standard input is closed, so that it never outlives the one who
started it. On SIGTERM a training saves its state and ends with the error "paused"; the process then ends too.
"""

import functools
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from registry.errors import Paused, RegistryError
from trainer.child import child_environment, hear_no_more, rank

if TYPE_CHECKING:
    from trainer.loading import Bases
    from trainer.spec import TrainSpec
    from trainer.state import Stop

PARENT_PIPE = "--parent-pipe"
SERVE = "serve"
PLAN = "plan"
PAUSED = 128 + signal.SIGTERM
Emit = Callable[[Mapping[str, Any]], None]


def main(arguments: list[str]) -> int:
    """Run what the arguments say; returns the exit code."""
    emit = _emitter(_take_stdout())
    wanted = [a for a in arguments if a != PARENT_PIPE]
    if wanted == [SERVE]:
        return _serve(emit)
    if PARENT_PIPE in arguments:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _paused_before_it_began)
    if len(wanted) == 2 and wanted[0] == PLAN:
        return _plan(Path(wanted[1]), emit)
    if len(wanted) != 1:
        usage = "Expected a train spec: python -m trainer [plan] SPEC.json, or python -m trainer serve."
        emit({"event": "error", "code": "invalid", "message": usage, "hint": None})
        return 1
    path = Path(wanted[0])
    return _guarded(lambda phase: _run(_read(path), emit, phase), emit)


def _emitter(file: TextIO) -> Emit:
    """Write events; of several processes that train together the first speaks, and whichever fails."""

    def emit(event: Mapping[str, Any]) -> None:
        if rank() == 0 or event["event"] == "error":
            file.write(json.dumps(event, allow_nan=False) + "\n")
            file.flush()

    return emit


def _guarded(work: Callable[[list[str]], None], emit: Emit) -> int:
    """Do some work and tell how it ended. `work` keeps the phase it is in as the last item of its list."""
    phases = ["start"]
    try:
        work(phases)
    except Exception as error:  # noqa: BLE001 - the edge of the process: every failure becomes one event
        if isinstance(error, Paused):
            hear_no_more()
        import traceback

        from trainer.failures import explain

        traceback.print_exc()
        told = explain(error, phases[-1])
        # What this product refused, or the disk did, leaves the process as good as it was; after anything else (memory, the GPU) nobody knows.
        sound = isinstance(error, RegistryError | OSError)
        emit({"event": "error", "code": told.code, "message": told.message, "hint": told.hint, "sound": sound})
        return PAUSED if isinstance(told, Paused) else 1
    emit({"event": "done"})
    return 0


def _read(path: Path) -> "TrainSpec":
    from trainer.spec import TrainSpec

    return TrainSpec.read(path)


def _run(spec: "TrainSpec", emit: Emit, phases: list[str], bases: "Bases | None" = None, stop: "Stop | None" = None) -> None:
    from trainer.examples import read_dataset

    os.environ.update(child_environment(offline=spec.base.kind != "hub", devices=spec.recipe.processes))  # before torch is loaded
    read_dataset(spec.dataset_dir)  # its errors should not wait for the libraries
    emit({"event": "phase", "name": "libraries"})
    phases.append("libraries")
    from trainer.state import Stop
    from trainer.train import Phases, train

    if stop is None:
        stop = Stop()
        stop.listen()
    told = Phases(emit)
    try:
        train(spec, emit, told, bases, stop)
    finally:
        phases.append(told.current)


def _plan(path: Path, emit: Emit) -> int:
    def work(phases: list[str]) -> None:
        spec = _read(path)
        os.environ.update(child_environment(offline=spec.base.kind != "hub"))
        phases.append("data_preparation")
        from trainer.counting import count

        emit({"event": "plan", **count(spec)})

    return _guarded(work, emit)


def _serve(emit: Emit) -> int:
    """Train what comes on standard input until it closes. Every spec brings its own log: what libraries print goes to out_dir/training.log."""
    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_orders, args=(orders,), daemon=True).start()
    signal.signal(signal.SIGTERM, _paused_before_it_began)
    bases: list[Bases] = []
    stop: list[Stop] = []

    def work(order: str, phases: list[str]) -> None:
        from trainer.spec import TrainSpec

        spec = TrainSpec.from_json(json.loads(order))
        _log_to(spec.out_dir)
        if not bases:  # torch is loaded by the first order, under its environment
            os.environ.update(child_environment(offline=spec.base.kind != "hub"))
            from trainer.loading import Bases
            from trainer.state import Stop

            bases.append(Bases())
            stop.append(Stop())
            stop[0].listen()
        _run(spec, emit, phases, bases[0], stop[0])

    try:
        while _guarded(functools.partial(work, orders.get()), emit) != PAUSED:
            pass
    except Paused:  # asked to stop between two trainings
        hear_no_more()
        return PAUSED
    return PAUSED  # who was asked to stop is to end; the next training gets a process of its own


def _read_orders(orders: "queue.Queue[str]") -> None:
    """Pass lines on; the end of standard input is the end of this process, whatever it does at the moment."""
    for line in sys.stdin:
        orders.put(line)
    os._exit(1)


def _log_to(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "training.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 2)
    os.close(log)


def _paused_before_it_began(_number: int, _frame: object) -> None:
    hear_no_more()
    raise Paused("The training was stopped before it began.", hint="Run the same command to begin.")


def _take_stdout() -> TextIO:
    """Keep standard output for events: libraries (and their C code) that print there go to standard error from now on."""
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(own, "w", encoding="utf-8")


def _end_with_parent() -> None:
    """Block until standard input closes, then end at once: nothing half-written counts, because result.json comes last."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # the result is on disk; waiting for libraries' threads to wind down only costs time
