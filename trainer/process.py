"""Runs trainings in processes of their own and brings back their events, their results or their errors. Loads no torch.

`run_training` starts a process for one training; `WarmTrainer` keeps one, with the libraries and the base in memory, for many.

Rules: a child never outlives this process (its standard input is a pipe that closes with us); a SIGTERM is passed on, the child saves its state, and Paused is
raised; an interrupt ends the child first and is then passed on; a child that dies without a word is explained by how it died. What libraries print goes to
out_dir/training.log.
"""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from registry import errors
from registry.errors import Paused, RegistryError, TrainingFailed
from trainer.cards import Cards, take_cards
from trainer.child import child_environment
from trainer.failures import without_folders
from trainer.spec import TrainedAdapter, TrainSpec

OnEvent = Callable[[Mapping[str, Any]], None]
LOG_FILE = "training.log"
GRACE = 10.0  # seconds between asking the child to end and ending it
SAVE_GRACE = 80.0  # seconds a child that was asked to stop has for its step and its state; systemd kills after 90 (TimeoutStopSec)
PAUSED_CODES = (128 + signal.SIGTERM, -signal.SIGTERM)  # of a child that was asked to stop and did, with or without a handler of its own
_WITH_REASONS = {errors.NotPromotable}
_BY_CODE: dict[str, type[RegistryError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RegistryError) and kind not in _WITH_REASONS
}


def run_training(spec: TrainSpec, on_event: OnEvent) -> TrainedAdapter:
    """Train in a child process; `on_event` gets each of its events as they come (in this thread).

    Raises the RegistryError the child reported (Paused after a SIGTERM or at the drive's time), or TrainingFailed when it died; KeyboardInterrupt and SystemExit
    pass through after the child has ended.
    """
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="registry-spec-") as folder:
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec.as_json()), encoding="utf-8")
        with (
            (spec.out_dir / LOG_FILE).open("wb") as log,
            _cards_of(spec, on_event) as cards,
            _child(_command(spec, path), {**_environment(spec), **cards.environment}, log) as child,
            _passing_on(child),
        ):
            last, reported = _follow(child, on_event)
            code = child.wait()
    return _outcome(spec, last, reported, code)


def plan_training(spec: TrainSpec) -> Mapping[str, Any]:
    """What a training would do, counted in a child process that loads the tokenizer alone: the plan event. Raises what `run_training` raises."""
    plans: list[Mapping[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="registry-spec-") as folder:
        path, log_path = Path(folder) / "spec.json", Path(folder) / LOG_FILE
        path.write_text(json.dumps(spec.as_json()), encoding="utf-8")
        with log_path.open("wb") as log, _child([*_TRAINER, "plan", str(path), "--parent-pipe"], _environment(spec), log) as child:
            last, reported = _follow(child, lambda event: plans.append(event) if event.get("event") == "plan" else None)
            code = child.wait()
        if reported is not None:
            raise _as_error(reported)
        if code != 0 or not plans:
            raise _died(code, last, log_path)
    return plans[-1]


_TRAINER = (sys.executable, "-m", "trainer")


def _command(spec: TrainSpec, path: Path) -> list[str]:
    """The command of a cold training: this interpreter, or accelerate's launcher where several GPUs train together."""
    if spec.recipe.processes == 1:
        return [*_TRAINER, str(path), "--parent-pipe"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--num_processes", str(spec.recipe.processes)]
    sharded = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--mixed_precision", "no"]
    return [*launch, "--dynamo_backend", "no", *sharded, "--module", "trainer", str(path), "--parent-pipe"]


def _environment(spec: TrainSpec) -> dict[str, str]:
    return child_environment(offline=spec.base.kind != "hub", devices=spec.recipe.processes)


def _cards_of(spec: TrainSpec, on_event: OnEvent) -> Cards:
    """The GPUs of a training, this process's alone where there are enough; none for a training on the CPU."""
    return take_cards(spec.recipe.processes, on_event) if spec.recipe.device == "cuda" else Cards((), ())


def _outcome(spec: TrainSpec, last: Mapping[str, Any] | None, reported: Mapping[str, Any] | None, code: int) -> TrainedAdapter:
    if reported is not None:
        raise _as_error(reported)
    if code != 0 or not _is_done(last):
        raise _died(code, last, spec.out_dir / LOG_FILE)
    return TrainedAdapter.load(spec.out_dir)


def _is_done(last: Mapping[str, Any] | None) -> bool:
    return last is not None and last.get("event") == "done"


@contextmanager
def _child(command: Sequence[str], environment: Mapping[str, str], log: Any) -> Iterator["subprocess.Popen[str]"]:
    """The running child; whatever happens inside, it has ended and is reaped when the block is left."""
    child = _start(command, environment, log)
    try:
        yield child
    finally:
        _end(child)


def _start(command: Sequence[str], environment: Mapping[str, str], log: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        encoding="utf-8",
        env=dict(environment),
        start_new_session=True,  # Ctrl-C in a terminal reaches the whole group; we decide in which order to end
    )


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


def _follow(
    child: "subprocess.Popen[str]", on_event: OnEvent, *, until_done: bool = False
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Pass events on until the child closes its output or, with `until_done`, until the training is over. Returns (last event, error event or None)."""
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
            reported = reported or event  # of several processes the first that failed; the others are then ended
        else:
            on_event(event)
        if until_done and event.get("event") in {"error", "done"}:
            break
    return last, reported


def _as_error(event: Mapping[str, Any]) -> RegistryError:
    kind = _BY_CODE.get(str(event.get("code")), TrainingFailed)
    return kind(str(event.get("message")), event.get("hint"))


def _died(code: int, last: Mapping[str, Any] | None, log: Path) -> RegistryError:
    when = _when(last)
    if code in PAUSED_CODES:
        return Paused(f"The training was stopped {when}.", hint="The same command begins again, or goes on from its last saved state.")
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
        f"The training process ended {when} with exit code {code} and no word why. {_tail(log)}".strip(),
        hint=f"See {log.name} in its work folder.",
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
    return f"Its last line: {without_folders(lines[-1])[:300]}" if lines else ""


@contextmanager
def _passing_on(child: "subprocess.Popen[str]") -> Iterator[None]:
    """Inside, a SIGTERM to this process is passed on to the child, which saves its state and says so; after SAVE_GRACE seconds it is ended.

    Only in the main thread and only where nobody else handles SIGTERM; elsewhere the child still ends with us, through its pipe.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:
        yield
        return
    timers: list[threading.Timer] = []

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        if not timers:  # once is enough: the child is saving its state
            timers.append(ask_to_stop(child))

    signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for timer in timers:
            timer.cancel()


def ask_to_stop(child: "subprocess.Popen[str]") -> threading.Timer:
    """Ask a child to save its state and end; the timer ends it if it does not."""
    child.terminate()
    timer = threading.Timer(SAVE_GRACE, child.kill)
    timer.daemon = True
    timer.start()
    return timer


class WarmTrainer:
    """Trains one spec after the other in one child process, which keeps the libraries and the base in memory. Same bytes as `run_training`.

    One training at a time; `stop` and `close` may be called from other threads. The child is started when it is first needed, and replaced after
    `recycle_after` trainings (whatever libraries leak ends with it), after its death, and after every error that may have left it unsound (memory, the GPU, a bug).
    """

    def __init__(self, recycle_after: int = 50) -> None:
        """No child is started yet."""
        self.recycle_after = recycle_after
        self._child: subprocess.Popen[str] | None = None
        self._environment: Mapping[str, str] = {}
        self._done = 0
        self._cards: Cards | None = None  # the GPU of the child; None until it trains on one
        self._training = threading.Lock()
        self._asking = (
            threading.RLock()
        )  # held while somebody asks to stop, and while it is decided that nobody can ask this training any more
        self._busy = False
        self._stopping: threading.Timer | None = None

    def train(self, spec: TrainSpec, on_event: OnEvent) -> TrainedAdapter:
        """Train one spec; same events, errors and result as `run_training`."""
        if spec.recipe.processes > 1:  # several GPUs are launched together, each time anew
            return run_training(spec, on_event)
        with self._training:
            spec.out_dir.mkdir(parents=True, exist_ok=True)
            child = self._ready(spec, on_event)
            sound, self._busy = False, True
            try:
                last, reported = self._one(child, spec, on_event)
                sound = reported is None or bool(reported.get("sound") and reported.get("code") != Paused.code)
                return _outcome(spec, last, reported, 0 if reported is None and _is_done(last) else child.poll() or 0)
            finally:
                self._done += 1
                with self._asking:
                    self._busy = False
                # A child that was asked to stop ends, now or when it hears of it, also where its training was faster; the next one may not be hit by that.
                if not sound or self._stopping is not None or self._done >= self.recycle_after or child.poll() is not None:
                    self._replace()

    def _one(
        self, child: "subprocess.Popen[str]", spec: TrainSpec, on_event: OnEvent
    ) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Send one spec and follow its training. Returns (last event, error event or None)."""
        if child.stdin is None:
            raise TrainingFailed("The training process has no input to write to.")
        with suppress(OSError):  # a child that just died is explained by its end
            child.stdin.write(json.dumps(spec.as_json()) + "\n")
            child.stdin.flush()
        with _passing_on(child):
            last, reported = _follow(child, on_event, until_done=True)
        if reported is None and not _is_done(last):
            child.wait()  # its output closed: it is dead or about to be
        return last, reported

    def _ready(self, spec: TrainSpec, on_event: OnEvent) -> "subprocess.Popen[str]":
        """The child, started when there is none or when this spec needs another environment (a hub's base is fetched, a local one never; a GPU of its own)."""
        environment = _environment(spec)
        other = environment != self._environment or (spec.recipe.device == "cuda" and self._cards is None)
        if self._child is not None and (self._child.poll() is not None or other):
            self._replace()
        if self._child is None:
            cards = self._cards = _cards_of(spec, on_event) if spec.recipe.device == "cuda" else None
            with (spec.out_dir / LOG_FILE).open("wb") as log:
                self._child = _start([*_TRAINER, "serve", "--parent-pipe"], {**environment, **(cards.environment if cards else {})}, log)
            self._environment, self._done = environment, 0
        return self._child

    def _replace(self) -> None:
        child, self._child = self._child, None
        if self._stopping is not None:
            self._stopping.cancel()
            self._stopping = None
        if child is not None:
            _end(child)
        if self._cards is not None:
            self._cards.release()
            self._cards = None

    def stop(self) -> None:
        """Ask a running training to save its state and end: Paused is raised in `train`. Without one, or asked again, nothing happens."""
        with self._asking:
            child = self._child
            if self._busy and self._stopping is None and child is not None and child.poll() is None:
                self._stopping = ask_to_stop(child)

    def close(self) -> None:
        """End the child. A running training is asked to stop first."""
        self.stop()
        with self._training:
            self._replace()

    def __enter__(self) -> Self:
        """The trainer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it."""
        self.close()
