"""Hardware detection with a real nvidia-smi lookalike on PATH, the choice of a base, and the estimates."""

import re
import subprocess
from dataclasses import replace

import pytest

from registry.errors import Invalid
from registry.known_bases import known_base
from trainer import preflight
from trainer.bases import BaseSpec
from trainer.choice import choose
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
    require_fit,
    shared_batch,
    usable_bytes,
)
from trainer.recipe import default_recipe, gpu_recipe, make_recipe, why_method

LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip


RTX_4090 = "0, GPU-aaa, NVIDIA GeForce RTX 4090, 24564, 550.54, 8.9"
TWO_CARDS = f"{RTX_4090}\n1, GPU-bbb, NVIDIA A100-SXM4-80GB, 81920, 550.54, 8.0"
TWO_H200 = "0, GPU-a, NVIDIA H200, 143771, 570.1, 9.0\n1, GPU-b, NVIDIA H200, 143771, 570.1, 9.0"


@pytest.mark.parametrize(
    ("answer", "device"),
    [
        (RTX_4090, Device("NVIDIA GeForce RTX 4090", 24564, "550.54", 1, (8, 9))),
        ("0, GPU-a, NVIDIA A100-SXM4-80GB, 81920, 550.54, 8.0", Device("NVIDIA A100-SXM4-80GB", 81920, "550.54", 1, (8, 0))),
        ("0, GPU-a, NVIDIA H100 80GB HBM3, 81559, 570.1, 9.0", Device("NVIDIA H100 80GB HBM3", 81559, "570.1", 1, (9, 0))),
        (TWO_H200, Device("NVIDIA H200", 143771, "570.1", 2, (9, 0))),
        (TWO_CARDS, Device("NVIDIA GeForce RTX 4090", 24564, "550.54", 1, (8, 9))),
        ("0, GPU-a, NVIDIA GeForce RTX 3070, 8192, 535.1, [N/A]", Device("NVIDIA GeForce RTX 3070", 8192, "535.1", 1, None)),
    ],
)
def test_cards_are_read_with_memory_number_and_capability(nvidia_smi, answer, device):
    nvidia_smi(answer)
    assert detect_device() == device


def test_an_old_driver_that_does_not_know_capabilities_is_asked_again_without():
    def old(command):
        if "compute_cap" in command[1]:
            raise subprocess.CalledProcessError(2, list(command), output='Field "compute_cap" is not a valid field to query.')
        return "0, GPU-a, Tesla V100-SXM2-16GB, 16384, 418.87"

    assert detect_device(old) == Device("Tesla V100-SXM2-16GB", 16384, "418.87", 1, None)


@pytest.mark.parametrize(
    ("visible", "name", "count"),
    [
        ("1", "NVIDIA A100-SXM4-80GB", 1),
        ("GPU-bbb", "NVIDIA A100-SXM4-80GB", 1),
        ("GPU-b", "NVIDIA A100-SXM4-80GB", 1),
        ("0,1", "NVIDIA GeForce RTX 4090", 1),
    ],
)
def test_the_first_visible_card_counts(nvidia_smi, monkeypatch, visible, name, count):
    nvidia_smi(TWO_CARDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = detect_device()
    assert device is not None
    assert (device.name, device.count) == (name, count)


@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("1,0", 2), ("0,7,1", 1), ("7", None)])
def test_a_list_of_visible_cards_ends_where_one_does_not_exist(nvidia_smi, monkeypatch, visible, count):
    nvidia_smi(TWO_H200)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = detect_device()
    assert (device.count if device else None) == count


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


H100 = Device("NVIDIA H100 80GB HBM3", 81559, "570", 1, (9, 0))
H200 = Device("NVIDIA H200", 143771, "570", 1, (9, 0))
A100X4 = Device("NVIDIA A100-SXM4-80GB", 81920, "570", 4, (8, 0))
L40S = Device("NVIDIA L40S", 46068, "570", 1, (8, 9))
CARD = Device("NVIDIA GeForce RTX 4090", 24564, "550", 1, (8, 9))
SMALL = Device("NVIDIA GeForce RTX 3070", 8192, "550", 1, (8, 6))
T4 = Device("Tesla T4", 15360, "550", 1, (7, 5))


def known(repo):
    card = known_base(repo)
    assert card is not None
    return BaseSpec("hub", card.repo, "1" * 40, config=card.config)


MISTRAL, PHI, QWEN_14B = known("mistralai/Mistral-7B-Instruct-v0.3"), known("microsoft/phi-4"), known("Qwen/Qwen2.5-14B-Instruct")
LLAMA_70B, QWEN_72B = known("meta-llama/Llama-3.1-70B-Instruct"), known("Qwen/Qwen2.5-72B-Instruct")


@pytest.mark.parametrize(
    ("base", "device", "method", "processes"),
    [
        (MISTRAL, CARD, "qlora", 1),
        (PHI, CARD, "qlora", 1),
        (QWEN_14B, CARD, "qlora", 1),
        (MISTRAL, L40S, "lora", 1),
        (PHI, H100, "lora", 1),
        (LLAMA_70B, H100, "qlora", 1),
        (QWEN_72B, H200, "qlora", 1),
        (LLAMA_70B, replace(H200, count=2), "lora", 2),
        (QWEN_72B, A100X4, "lora", 4),
        (MISTRAL, replace(CARD, count=4), "qlora", 1),  # small cards train one advisor each
    ],
)
def test_the_default_method_follows_base_and_hardware_and_fits(base, device, method, processes):
    recipe = default_recipe(base, device)
    assert (recipe.method, recipe.processes, recipe.dtype) == (method, processes, "bfloat16")
    assert recipe.batch_size * recipe.gradient_accumulation * recipe.processes == 16
    assert require_fit(recipe, base, device, 1024) is not None
    assert ("untested here" in why_method(base, device)) == (processes > 1)


def test_a_method_that_is_asked_for_is_taken():
    recipe = make_recipe(LLAMA_70B, A100X4, {"method": "qlora"})
    assert (recipe.method, recipe.processes, recipe.sharding) == ("qlora", 1, "none")
    assert why_method(LLAMA_70B, A100X4, "qlora") == "asked for"
    assert make_recipe(LLAMA_70B, A100X4, {"method": "lora"}).processes == 4
    full = make_recipe(MISTRAL, H200, {"method": "full"})
    assert (full.method, full.gradient_checkpointing) == ("full", True)
    assert require_fit(full, MISTRAL, H200, 1024) is not None


@pytest.mark.parametrize(
    ("base", "device", "method"),
    [
        (MISTRAL, replace(H100, count=8), "full"),
        (MISTRAL, A100X4, "full"),
        (LLAMA_70B, replace(H100, count=8), "full"),
        (QWEN_72B, replace(L40S, count=8), "lora"),
    ],
)
def test_a_training_that_was_asked_for_spreads_over_as_many_cards_as_hold_it(base, device, method):
    recipe = make_recipe(base, device, {"method": method})
    assert recipe.method == method
    assert recipe.batch_size * recipe.gradient_accumulation * recipe.processes == 16
    if base is LLAMA_70B:  # 16 bytes a weight: more than eight cards have
        assert recipe.processes == 1
        with pytest.raises(Invalid, match="needs "):
            require_fit(recipe, base, device, 256)
        return
    assert recipe.processes in {2, 4, 8}
    assert recipe.sharding == "fsdp"
    assert require_fit(recipe, base, device, 1024) is not None
    assert why_method(base, device, method).startswith(
        f"asked for; {recipe.processes} cards hold it together, sharded by FSDP (untested here"
    )
    fewer = recipe.with_changes(processes=recipe.processes // 2, sharding="fsdp" if recipe.processes > 2 else "none")
    with pytest.raises(Invalid, match="needs "):
        require_fit(fewer, base, device, 1024)


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes", "shared"),
    [
        (4, 4, 2, {"gradient_accumulation": 2}),
        (4, 4, 4, {"gradient_accumulation": 1}),
        (4, 4, 8, {"batch_size": 2, "gradient_accumulation": 1}),
        (4, 4, 16, {"batch_size": 1, "gradient_accumulation": 1}),
        (3, 4, 2, {"gradient_accumulation": 2}),
        (4, 3, 2, {"batch_size": 3, "gradient_accumulation": 2}),
        (4, 1, 8, {"batch_size": 1, "gradient_accumulation": 1}),  # 8 and not 4: no card can see half an example
    ],
)
def test_several_cards_share_what_a_step_sees(batch_size, accumulation, processes, shared):
    recipe = replace(gpu_recipe("lora", batch_size, 16), gradient_accumulation=accumulation)
    assert shared_batch(recipe, processes) == shared


def test_a_batch_that_cards_cannot_share_evenly_is_said():
    recipe = replace(gpu_recipe("lora", 1, 16), gradient_accumulation=1)
    found = choose(recipe, LLAMA_70B, A100X4, "lora")
    assert found.changes["processes"] == 2
    assert found.why.endswith("; a step sees 2 examples, not 1, which 2 cards cannot share evenly")


def test_what_does_not_fit_is_refused_with_what_would():
    with pytest.raises(Invalid) as error:
        require_fit(make_recipe(QWEN_14B, CARD, {"method": "lora"}), QWEN_14B, CARD, 1024)
    assert re.fullmatch(r"Training Qwen/Qwen2.5-14B-Instruct by lora needs \d\d GB, this card has 24\.", error.value.message)
    assert error.value.hint == "Use --method qlora, or --base mistralai/Mistral-7B-Instruct-v0.3, which is smaller."


@pytest.mark.parametrize(
    ("base", "device", "settings", "longest", "words"),
    [
        (LLAMA_70B, L40S, {}, 1024, '"batch_size": 1 with "gradient_accumulation": 16'),
        (MISTRAL, CARD, {"gradient_checkpointing": False}, 2048, '"gradient_checkpointing": true'),
        (MISTRAL, H100, {"method": "full"}, 512, "--method lora"),
        (MISTRAL, H200, {"method": "full", "optim": "adamw_torch"}, 512, '"optim": "adamw_8bit"'),
        (LLAMA_70B, A100X4, {"method": "lora", "processes": 2}, 1024, '"processes": 4'),
        (QWEN_72B, L40S, {}, 1024, "no example longer than"),
        (MISTRAL, SMALL, {}, 1024, '"batch_size": 2'),
        (LLAMA_70B, SMALL, {}, 1024, "a smaller base"),
    ],
)
def test_the_hint_names_a_change_that_would_do(base, device, settings, longest, words):
    with pytest.raises(Invalid, match="needs ") as error:
        require_fit(make_recipe(base, device, settings), base, device, longest)
    assert error.value.hint is not None
    assert words in error.value.hint


def test_every_single_change_that_a_hint_names_would_fit():
    recipe = make_recipe(MISTRAL, H100, {"method": "full", "optim": "adamw_torch"})
    with pytest.raises(Invalid) as error:
        require_fit(recipe, MISTRAL, H100, 512)
    assert error.value.hint is not None
    assert "adamw_8bit" not in error.value.hint  # saves 40 GB, and 12 too few
    assert require_fit(make_recipe(MISTRAL, H100, {"method": "lora"}), MISTRAL, H100, 512) is not None


def test_a_card_without_bfloat16_computes_in_32_bits_and_says_so():
    recipe = default_recipe(MISTRAL, T4)
    assert (recipe.method, recipe.dtype) == ("qlora", "float32")
    assert "no bfloat16" in why_method(MISTRAL, T4)
    with pytest.raises(Invalid, match=r"bfloat16 needs a GPU of compute capability 8\.0 .*Tesla T4 has 7\.5") as error:
        require_fit(recipe.with_changes(dtype="bfloat16"), MISTRAL, T4, 256)
    assert '"dtype": "float32"' in str(error.value.hint)
    with pytest.raises(Invalid, match="FlashAttention-2 needs"):
        require_fit(recipe.with_changes(attention="flash_attention_2"), MISTRAL, T4, 256)


def test_more_processes_than_cards_are_refused():
    recipe = default_recipe(LLAMA_70B, A100X4)
    with pytest.raises(Invalid, match="trains on 4 GPUs; one is here"):
        require_fit(recipe, LLAMA_70B, H100, 256)


def test_on_a_cpu_the_machines_memory_counts(monkeypatch):
    monkeypatch.setattr(preflight, "_machine_memory", lambda: 16 * GIB)
    with pytest.raises(Invalid, match=r"by lora needs 4\d GB, this machine has 16\."):
        require_fit(default_recipe(MISTRAL, None), MISTRAL, None, 256)
    assert usable_bytes(None) == 16 * GIB


def test_the_machines_memory_is_known_here():
    assert (preflight._machine_memory() or 0) > GIB


def test_estimates_are_between_the_weights_and_published_peaks():
    qlora = estimate_memory(MISTRAL_7B, method="qlora", batch_size=4, tokens=1024)
    full = estimate_memory(MISTRAL_7B, method="lora", batch_size=4, tokens=1024)
    # LLaMA-Factory's table (reference/training.md 1.2): Llama-2-7B at 4 x 2 x 1,024 tokens took 9 GB in 4 bits and 18 GB in 16.
    assert 6 * GIB < qlora < 10 * GIB
    assert 14.5 * GIB < full < 19 * GIB
    assert estimate_memory({}, method="lora", batch_size=1, tokens=1) == 0
