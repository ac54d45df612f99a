"""Which process of which machine a worker is: so that a worker on the same machine can end one that stands still, and no other process ever.

A process id alone says nothing: it is used again. What identifies one is the machine's boot, the namespace that counts the ids, the id, and the moment at
which the process began (proc(5), `stat`, field 22). Linux only; elsewhere nothing is known and nothing is ended.
"""

import os
import platform
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_STOPPED = frozenset("Tt")  # proc(5): stopped by a signal, or by a debugger
_ENDED = frozenset("ZX")  # proc(5): ended, and nobody has asked yet how


def myself() -> dict[str, Any]:
    """{"host", "pid", "since"} of this process, for its heartbeat. `since` is null where the system does not tell."""
    return {"host": platform.node(), "pid": os.getpid(), "since": _since(os.getpid())}


def gone(facts: Mapping[str, Any]) -> bool:
    """Whether the process of a heartbeat ran on this machine and has ended."""
    return _here(facts) and (_since(facts["pid"]) != facts["since"] or _state(facts["pid"]) in _ENDED)


def end_stopped(facts: Mapping[str, Any]) -> bool:
    """End the process of a heartbeat where it is on this machine and was stopped (Ctrl-Z, SIGSTOP): it would hold its files' locks for ever.

    One that runs is left alone: it notices that it was declared dead and lets go by itself. Its children end with their pipes. Returns whether it was ended.
    """
    if not _here(facts):
        return False
    try:
        process = os.pidfd_open(facts["pid"])  # from here on the number cannot come to mean another process
    except OSError:
        return False
    try:
        if _since(facts["pid"]) != facts["since"] or _state(facts["pid"]) not in _STOPPED:
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def _here(facts: Mapping[str, Any]) -> bool:
    since, pid = facts.get("since"), facts.get("pid")
    if facts.get("host") != platform.node() or not isinstance(since, str) or not isinstance(pid, int) or pid == os.getpid():
        return False
    return since.rsplit(":", 1)[0] == _counted_by()


def _since(pid: int) -> str | None:
    with suppress(OSError, IndexError):
        return f"{_counted_by()}:{_stat(pid)[19]}"
    return None


def _counted_by() -> str:
    """The boot and the namespace in which process ids mean something; empty where the system does not tell."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()}:{Path('/proc/self/ns/pid').readlink()}"
    return ""


def _state(pid: int) -> str:
    with suppress(OSError, IndexError):
        return _stat(pid)[0]
    return ""


def _stat(pid: int) -> list[str]:
    """A process's state and what follows it; the name before may hold anything, also brackets and spaces. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
