"""`python -m trainer SPEC.json`: one training in this process, its events as JSON lines on stdout, everything else on stderr.

Events: {"event": "phase", "name"}, {"event": "step", "step", "of", "loss"}, {"event": "heldout", "step", "of"}, {"event": "warning", "message"},
{"event": "error", "code", "message", "hint"}, {"event": "done"}. Exit code 0 after done, 1 after an error. With --parent-pipe the process ends as soon as its
standard input is closed, so that it never outlives the one who started it.
"""

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from trainer.child import child_environment

PARENT_PIPE = "--parent-pipe"


def main(arguments: list[str]) -> int:
    """Run one spec; returns the exit code."""
    events = _take_stdout()

    def emit(event: Mapping[str, Any]) -> None:
        events.write(json.dumps(event, allow_nan=False) + "\n")
        events.flush()

    if PARENT_PIPE in arguments:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    paths = [a for a in arguments if a != PARENT_PIPE]
    if len(paths) != 1:
        emit({"event": "error", "code": "invalid", "message": "Expected one train spec: python -m trainer SPEC.json.", "hint": None})
        return 1
    return _run(Path(paths[0]), emit)


def _run(path: Path, emit: Any) -> int:
    from trainer.examples import read_dataset
    from trainer.failures import explain
    from trainer.spec import TrainSpec

    phase = "start"
    try:
        spec = TrainSpec.read(path)
        os.environ.update(child_environment(offline=spec.base.kind != "hub"))  # before torch is loaded
        read_dataset(spec.dataset_dir)  # its errors should not wait for the libraries
        emit({"event": "phase", "name": "libraries"})
        phase = "libraries"
        from trainer.train import Phases, train

        phases = Phases(emit)
        try:
            train(spec, emit, phases)
        finally:
            phase = phases.current
    except Exception as error:  # noqa: BLE001 - the edge of the process: every failure becomes one event
        import traceback

        traceback.print_exc()
        told = explain(error, phase)
        emit({"event": "error", "code": told.code, "message": told.message, "hint": told.hint})
        return 1
    emit({"event": "done"})
    return 0


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
