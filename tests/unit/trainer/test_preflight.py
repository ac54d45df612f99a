"""Hardware detection with a real nvidia-smi lookalike on PATH, the choice of a base, and the estimates."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from registry.errors import Invalid
from trainer.preflight import (
    DEFAULT_GPU_BASE,
    GIB,
    MISTRAL_7B,
    TINY,
    Device,
    choose_default_base,
    count_parameters,
    detect_device,
    estimate_memory,
)

LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install an nvidia-smi that prints the given text and exits with the given code."""

    def install(text: str, code: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


TWO_CARDS = "0, GPU-aaa, NVIDIA GeForce RTX 4090, 24564, 550.54\n1, GPU-bbb, NVIDIA A100-SXM4-80GB, 81920, 550.54"


def test_a_card_is_read_with_its_memory(nvidia_smi):
    nvidia_smi("0, GPU-aaa, NVIDIA GeForce RTX 4090, 24564, 550.54")
    assert detect_device() == Device("NVIDIA GeForce RTX 4090", 24564, "550.54")


@pytest.mark.parametrize(
    ("visible", "name"), [("1", "NVIDIA A100-SXM4-80GB"), ("GPU-bbb", "NVIDIA A100-SXM4-80GB"), ("0,1", "NVIDIA GeForce RTX 4090")]
)
def test_the_first_visible_card_counts(nvidia_smi, monkeypatch, visible, name):
    nvidia_smi(TWO_CARDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = detect_device()
    assert device is not None
    assert device.name == name


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_cards_are_none(nvidia_smi, monkeypatch, visible):
    nvidia_smi(TWO_CARDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert detect_device() is None


@pytest.mark.parametrize(
    ("text", "code"),
    [("", 0), ("NVIDIA-SMI has failed because it couldn't communicate with the driver", 9), ("0, GPU-a, Card, [N/A], 1", 0)],
)
def test_a_broken_driver_is_no_card(nvidia_smi, text, code):
    nvidia_smi(text, code)
    assert detect_device() is None


def test_no_nvidia_smi_is_no_card(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_device() is None


def test_a_hanging_nvidia_smi_is_no_card():
    def hang(command):
        raise subprocess.TimeoutExpired(list(command), 20)

    assert detect_device(hang) is None


def test_the_default_base_follows_the_hardware():
    assert choose_default_base(None) == TINY
    assert choose_default_base(Device("RTX 4090", 24564)) == DEFAULT_GPU_BASE
    assert choose_default_base(Device("RTX 4000 Ada, 20 GB", 20475)) == DEFAULT_GPU_BASE


def test_a_small_gpu_gets_an_estimate_and_a_choice():
    with pytest.raises(Invalid, match=r"RTX 3060 has 12\.0 GB\. .*estimated to need \d+\.\d GB") as error:
        choose_default_base(Device("RTX 3060", 12288))
    assert error.value.hint is not None
    assert all(
        choice in error.value.hint for choice in (f"--base {DEFAULT_GPU_BASE}", "--base HuggingFaceTB/SmolLM2-135M-Instruct", "--base tiny")
    )


def test_parameters_are_counted_as_the_models_have_them():
    assert count_parameters(MISTRAL_7B) == 7_248_023_552
    assert count_parameters(LLAMA_8B) == 8_030_261_248
    assert count_parameters({"model_type": "gpt2", "n_embd": 768}) is None


def test_estimates_are_between_the_weights_and_published_peaks():
    qlora = estimate_memory(MISTRAL_7B, method="qlora", batch_size=4, tokens=1024)
    full = estimate_memory(MISTRAL_7B, method="lora", batch_size=4, tokens=1024)
    # LLaMA-Factory's table (reference/training.md 1.2): Llama-2-7B at 4 x 2 x 1,024 tokens took 9 GB in 4 bits and 18 GB in 16.
    assert 6 * GIB < qlora < 10 * GIB
    assert 14.5 * GIB < full < 19 * GIB
    assert estimate_memory({}, method="lora", batch_size=1, tokens=1) == 0
