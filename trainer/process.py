"""Runs a training in a process of its own and brings back its events, its result or its error. Loads no torch.

Rules: the child never outlives this process (its standard input is a pipe that closes with us); an interrupt or a SIGTERM ends the child first and is then
passed on; a child that dies without a word is explained by how it died. What libraries print goes to out_dir/training.log.
"""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from registry import errors
from registry.errors import RegistryError, TrainingFailed
from trainer.child import child_environment
from trainer.spec import TrainedAdapter, TrainSpec

OnEvent = Callable[[Mapping[str, Any]], None]
LOG_FILE = "training.log"
GRACE = 10.0  # seconds between asking the child to end and ending it
_WITH_REASONS = {errors.NotPromotable}
_BY_CODE: dict[str, type[RegistryError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RegistryError) and kind not in _WITH_REASONS
}


def run_training(spec: TrainSpec, on_event: OnEvent) -> TrainedAdapter:
    """Train in a child process; `on_event` gets each of its events as they come (in this thread).

    Raises the RegistryError the child reported, or TrainingFailed when it died; KeyboardInterrupt and SystemExit pass through after the child has ended.
    """
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="registry-spec-") as folder:
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec.as_json()), encoding="utf-8")
        with (spec.out_dir / LOG_FILE).open("wb") as log, _terminate_as_exit(), _child(spec, path, log) as child:
            last, reported = _follow(child, on_event)
            code = child.wait()
    if reported is not None:
        raise _as_error(reported)
    if code != 0 or last is None or last.get("event") != "done":
        raise _died(code, last, spec.out_dir / LOG_FILE)
    return TrainedAdapter.load(spec.out_dir)


@contextmanager
def _child(spec: TrainSpec, path: Path, log: Any) -> Iterator["subprocess.Popen[str]"]:
    """The running child; whatever happens inside, it has ended and is reaped when the block is left."""
    child = subprocess.Popen(
        [sys.executable, "-m", "trainer", str(path), "--parent-pipe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        encoding="utf-8",
        env=child_environment(offline=spec.base.kind != "hub"),
        start_new_session=True,  # Ctrl-C in a terminal reaches the whole group; we decide in which order to end
    )
    try:
        yield child
    finally:
        _end(child)


def _end(child: "subprocess.Popen[str]") -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _follow(child: "subprocess.Popen[str]", on_event: OnEvent) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Pass events on until the child closes its output. Returns (last event, error event or None)."""
    last: Mapping[str, Any] | None = None
    reported: Mapping[str, Any] | None = None
    if child.stdout is None:
        raise TrainingFailed("The training process has no output to read.")
    for line in child.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a torn last line of a killed child
        if not isinstance(event, dict):
            continue
        last = event
        if event.get("event") == "error":
            reported = event
        else:
            on_event(event)
    return last, reported


def _as_error(event: Mapping[str, Any]) -> RegistryError:
    kind = _BY_CODE.get(str(event.get("code")), TrainingFailed)
    return kind(str(event.get("message")), event.get("hint"))


def _died(code: int, last: Mapping[str, Any] | None, log: Path) -> TrainingFailed:
    when = _when(last)
    if code == -signal.SIGKILL:
        return TrainingFailed(
            f"The training process was killed (signal 9) {when}; likely the machine ran out of memory. No adapter was kept.",
            hint="Lower batch_size (and raise gradient_accumulation), choose a smaller base, or give the machine more memory.",
        )
    if code < 0:
        with suppress(ValueError):
            return TrainingFailed(
                f"The training process was ended by {signal.Signals(-code).name} {when}. No adapter was kept.", hint="Run it again."
            )
    return TrainingFailed(
        f"The training process ended {when} with exit code {code} and no word why. {_tail(log)}".strip(), hint=f"See {log}."
    )


def _when(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "before it began"
    if last.get("event") == "step":
        return f"at step {last.get('step')} of {last.get('of')}"
    return f"during {last.get('name', last.get('event'))}"


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f"Its last line: {lines[-1][:300]}" if lines else ""


@contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """Inside, a SIGTERM to this process raises SystemExit(143), so that the child and the caller's own records are put in order.

    Only in the main thread and only where nobody else handles SIGTERM; elsewhere the child still ends with us, through its pipe.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:
        yield
        return

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
