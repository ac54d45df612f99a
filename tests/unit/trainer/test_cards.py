"""Which GPU a training takes, with a made-up nvidia-smi: no card is touched."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.cards import take_cards
from trainer.child import child_environment
from trainer.preflight import detect_device, visible_cards

TWO = "0, GPU-a, NVIDIA H200, 143771, 570.1, 9.0\n1, GPU-b, NVIDIA H200, 143771, 570.1, 9.0"
REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def two(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi(TWO)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def quiet(event):
    raise AssertionError(event)


def test_each_training_takes_a_card_of_its_own_and_gives_it_back(two):
    with take_cards(1, quiet) as one, take_cards(1, quiet) as other:
        assert [dict(c.environment) for c in (one, other)] == [{"CUDA_VISIBLE_DEVICES": "GPU-a"}, {"CUDA_VISIBLE_DEVICES": "GPU-b"}]
    with take_cards(1, quiet) as again:
        assert again.names == ("GPU-a",)
    with take_cards(2, quiet) as both:
        assert both.environment == {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}


def test_where_none_is_free_one_is_shared_and_that_is_said(two):
    told = []
    with take_cards(2, quiet), take_cards(1, told.append) as third:
        assert third.names == ("GPU-a",)
        assert third.locks == ()
    assert "Every GPU that may be used is taken by another training here; this one shares GPU GPU-a" in told[0]["message"]


def test_a_card_is_free_again_when_its_holder_is_killed(two):
    code = "import sys; from trainer.cards import take_cards; c = take_cards(1, print); print(c.names, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO) as other:
        assert other.stdout is not None
        assert b"GPU-a" in other.stdout.readline()
        with take_cards(1, quiet) as mine:
            assert mine.names == ("GPU-b",)
        other.kill()
    with take_cards(1, quiet) as mine:
        assert mine.names == ("GPU-a",)


@pytest.mark.parametrize("visible", ["1", "GPU-b"])
def test_a_worker_that_was_given_a_card_takes_no_other(two, monkeypatch, visible):
    """`registry worker --gpu 1` sets CUDA_VISIBLE_DEVICES: the choice, the lock and the child all look at it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert child_environment(offline=True)["CUDA_VISIBLE_DEVICES"] == visible
    assert child_environment(offline=True, devices=2)["CUDA_VISIBLE_DEVICES"] == visible
    device = detect_device()
    assert device is not None
    assert device.count == 1
    with take_cards(1, quiet) as mine:
        assert mine.names == ("GPU-b",)


def test_without_a_card_nothing_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_cards() == []
    with take_cards(1, quiet) as none:
        assert none.environment == {}
