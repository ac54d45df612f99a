"""Which GPU a training takes where a machine has several: the first that no other training of this user holds. Loads no torch.

Rules: CUDA_VISIBLE_DEVICES is honoured, and only what it names is taken; a card is held by a lock on a file that is named by its UUID, which the system lets go
when the holder dies; where fewer cards are free than are needed, one that is held is shared, with a warning, because waiting for an idle worker could take for
ever. What it does not know: trainings of other users and of other containers, and programs that are no trainings. Not run on a machine with GPUs.
"""

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from trainer.preflight import visible_cards


@dataclass(frozen=True)
class Cards:
    """GPUs by the names that CUDA_VISIBLE_DEVICES takes, and the locks that hold them."""

    names: tuple[str, ...]
    locks: tuple[FileLock, ...]

    @property
    def environment(self) -> Mapping[str, str]:
        """What a child process is to see; nothing where no card is known here."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.names)} if self.names else {}

    def release(self) -> None:
        """Let other trainings have them; from any thread."""
        for lock in self.locks:
            lock.release()

    def __enter__(self) -> Self:
        """The cards themselves."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Release them."""
        self.release()


def take_cards(count: int, on_event: Callable[[Mapping[str, Any]], None]) -> Cards:
    """Hold `count` of the visible GPUs, free ones first. Too few visible ones are no error here: preflight.require_fit says so in words. Raises OSError."""
    folder = _folder()
    free: list[tuple[str, FileLock]] = []
    held: list[str] = []
    for uuid, name in visible_cards():
        lock = FileLock(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', uuid)}.lock", timeout=0, thread_local=False)
        if len(free) == count:
            break
        try:
            lock.acquire()
            free.append((name, lock))
        except Timeout:
            held.append(name)
    shared = held[: count - len(free)]
    if shared:
        words = f"Every GPU that may be used is taken by another training here; this one shares GPU {', '.join(shared)} with it, and both may run out of memory."
        on_event({"event": "warning", "message": words})
    return Cards((*(name for name, _ in free), *shared), tuple(lock for _, lock in free))


def _folder() -> Path:
    """A folder of this user's own that does not outlive the machine's next start."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):  # under sudo it may still name another user's
        folder = Path(runtime) / "adapter-registry"
    else:
        folder = Path(tempfile.gettempdir()) / f"adapter-registry-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
