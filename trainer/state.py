"""The state of a training on disk, so that a killed one goes on where it was last saved; and the wish to stop.

Rules: a state is written beside its place, flushed and renamed, so it is whole or the one before it; it is read with weights_only, so that nothing in it can run,
and lies in a folder that only its owner enters; a state of another spec, other data or other libraries is not gone on with, because the bytes would differ.
The optimizer's state and the random numbers are part of it, so the result is that of an uninterrupted run.
"""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch

from registry.errors import Paused
from registry.manifest import digest
from trainer.child import hear_no_more
from trainer.data import Encoded
from trainer.environment import versions_of
from trainer.sharded import Alone
from trainer.spec import STATE_FOLDER, Drive, TrainSpec

STATE_FILE = "state.pt"
DECIDES_BITS = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


class Stop:
    """Whether a training should save its state and end: somebody said so (SIGTERM), or its window closes."""

    def __init__(self) -> None:
        """Nobody said anything."""
        self._asked = threading.Event()
        self._saves = False
        self._listens = False

    @property
    def asked(self) -> bool:
        """Whether somebody said so."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Stop at the next chance. Where a training is not in its steps, there is nothing to save, and it ends at once: raises Paused."""
        self._asked.set()
        if not self._saves:
            self._end_listening()
            raise Paused(
                "The training was stopped before or after its steps.",
                hint="The same command begins again, or goes on from its last saved state.",
            )

    def requested(self, drive: Drive) -> bool:
        """Whether to stop now."""
        return self._asked.is_set() or (drive.stop_at is not None and time.time() >= drive.stop_at)

    def listen(self) -> None:
        """From now on a SIGTERM to this process asks to stop. Main thread only."""
        self._listens = True
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.ask())

    def _end_listening(self) -> None:
        """A process that ends with Paused may not be asked again while it says so: that would end it in the middle of the sentence."""
        if self._listens:
            hear_no_more()

    def __enter__(self) -> Self:
        """Inside, stopping waits until it is asked for with `requested`."""
        self._saves = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_raised: object) -> None:
        """A wish that came too late to be seen is forgotten with the training that it meant: it may not end the next one of this process."""
        if kind is not None and issubclass(kind, Paused):
            self._end_listening()
        self._asked.clear()
        self._saves = False


class State:
    """The state folder of one training."""

    def __init__(self, spec: TrainSpec, examples: Sequence[Encoded], weights_sha256: str, team: Alone) -> None:
        """`examples` and the base's digest are what the fingerprint covers beside recipe and seed."""
        self.team = team
        self.folder = spec.out_dir / STATE_FOLDER
        self.fingerprint = fingerprint(spec, examples, weights_sha256)

    def save(self, model: Any, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]) -> None:
        """Write the trained weights, the optimizer, the random numbers and `progress` (plain JSON). Where that fails, the state before it stays.

        Raises OSError, or torch's RuntimeError for a write that failed.
        """
        content = {
            "fingerprint": self.fingerprint,
            "progress": json.dumps(progress),
            "weights": {name: self.team.whole(p.detach()) for name, p in model.named_parameters() if p.requires_grad},
            "optimizer": self.team.optimizer_state(model, optimizer),
            "random": _random_numbers(),
        }
        if self.team.rank == 0:
            self._write(content)

    def _write(self, content: Mapping[str, Any]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        part = self.folder / (STATE_FILE + ".part")
        try:
            with part.open("wb") as file:
                torch.save(dict(content), file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / STATE_FILE)
        except BaseException:  # what is half written would keep a full disk full
            part.unlink(missing_ok=True)
            raise

    def load(self, model: Any, optimizer: torch.optim.Optimizer, usable: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any] | None:
        """Put a saved state back and return its progress; None where there is none, one of another training, or one whose progress is not `usable`."""
        path = self.folder / STATE_FILE
        if not path.is_file():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001 - torch names many ways in which a file is damaged; the training then begins again
            return None
        if content.get("fingerprint") != self.fingerprint or not usable(json.loads(content["progress"])):
            return None
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    self.team.set_weights(parameter, content["weights"][name])
        self.team.set_optimizer_state(model, optimizer, content["optimizer"])
        _set_random_numbers(content["random"])
        progress: Mapping[str, Any] = json.loads(content["progress"])
        return progress

    def remove(self) -> None:
        """The training has ended; its state is of no more use."""
        shutil.rmtree(self.folder, ignore_errors=True)


def fingerprint(spec: TrainSpec, examples: Sequence[Encoded], weights_sha256: str) -> str:
    """A digest of all that decides the bits of a training on this machine."""
    return digest(
        {
            "recipe": spec.recipe.digest,
            "seed": spec.seed,
            "base": weights_sha256,
            "examples": [[e.sha256, digest([list(e.input_ids), list(e.labels)])] for e in examples],
            "versions": versions_of(DECIDES_BITS),
            "threads": torch.get_num_threads(),
        }
    )


def _random_numbers() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random_numbers(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class Clock:
    """When it is time to write the state again."""

    def __init__(self, every: float, now: Callable[[], float] = time.monotonic) -> None:
        """`every` seconds; 0 means never."""
        self.every, self.now, self.last = every, now, now()

    def due(self) -> bool:
        """Whether so many seconds have passed since the state was last written."""
        return self.every > 0 and self.now() - self.last >= self.every

    def wrote(self) -> None:
        """The state was written just now."""
        self.last = self.now()
