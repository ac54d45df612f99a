"""The wish to stop, and the state on a disk that is full, without a training."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from registry.errors import Paused
from trainer.sharded import Alone
from trainer.spec import Drive

pytestmark = pytest.mark.train

REPO = Path(__file__).resolve().parents[3]


def test_a_wish_that_came_in_the_last_step_does_not_end_the_next_training():
    from trainer.state import Stop

    stop = Stop()
    with stop:
        stop.ask()
        assert stop.requested(Drive())
    assert not stop.asked
    with stop:
        assert not stop.requested(Drive())
        assert stop.requested(Drive(stop_at=time.time() - 1))  # the window closed
        assert not stop.requested(Drive(stop_at=time.time() + 60))
    with pytest.raises(Paused, match="before or after its steps"):
        stop.ask()


def test_a_training_that_tells_how_far_it_came_cannot_be_asked_again():
    """The child of a service that is stopped gets SIGTERM from its parent and from the system."""
    from trainer.state import Stop

    before, stop = signal.getsignal(signal.SIGTERM), Stop()
    try:
        for inside in (True, False):
            stop.listen()
            with pytest.raises(Paused, match="saved" if inside else "before or after its steps"):
                _stopped(stop, inside=inside)
            os.kill(os.getpid(), signal.SIGTERM)  # without the rule it raises once more, here
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def _stopped(stop: Any, *, inside: bool) -> None:
    with stop if inside else nullcontext():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        raise Paused("saved")


def test_a_process_that_was_stopped_says_so_however_often_it_is_asked():
    code = (
        "import os, signal, sys, time\nfrom trainer.__main__ import _guarded, _paused_before_it_began\n"
        "signal.signal(signal.SIGTERM, _paused_before_it_began)\n"
        "def emit(event): os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.01); print(event, flush=True)\n"
        "sys.exit(_guarded(lambda _phases: os.kill(os.getpid(), signal.SIGTERM), emit))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=REPO)
    assert b"'code': 'paused'" in done.stdout
    assert done.returncode == 128 + signal.SIGTERM


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_state_that_does_not_fit_leaves_no_rest_and_keeps_the_one_before(tmp_path):
    import torch

    from trainer.failures import is_disk_full
    from trainer.state import State

    state = object.__new__(State)
    state.folder, state.team, state.fingerprint = tmp_path / "state", Alone(), "sha256:" + "0" * 64
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(model.parameters())
    state.save(model, optimizer, {"step": 1})
    before = (state.folder / "state.pt").read_bytes()
    (state.folder / "state.pt.part").symlink_to("/dev/full")
    with pytest.raises((OSError, RuntimeError)) as caught:
        state.save(model, optimizer, {"step": 2})
    assert is_disk_full(caught.value)
    assert [path.name for path in state.folder.iterdir()] == ["state.pt"]
    assert (state.folder / "state.pt").read_bytes() == before
