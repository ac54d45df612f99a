"""Estimates: parts against published peaks and against what torch really keeps, growth, and what is unknown."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.known_bases import known_base, known_bases
from trainer.bases import BaseSpec
from trainer.estimate import GIB, MISTRAL_7B, count_parameters, duration, estimate, layer_bytes, shapes_of
from trainer.preflight import Device, require_fit
from trainer.recipe import ATTENTION, Recipe, gpu_recipe

CARD = Device("NVIDIA GeForce RTX 4090", 24564, "550", 1, (8, 9))
BASE = BaseSpec("hub", "org/mistral", "1" * 40, config=MISTRAL_7B)
ALL_LINEAR = tuple(sorted((*ATTENTION, "down_proj", "gate_proj", "up_proj")))
LLAMA_2_7B = MISTRAL_7B | {"model_type": "llama", "intermediate_size": 11008, "num_key_value_heads": 32, "vocab_size": 32000}
FULL = {"method": "full", "r": None, "alpha": None, "dropout": 0.0, "targets": "none", "target_modules": ()}


def changed(recipe: Recipe, **changes) -> Recipe:
    return replace(recipe, **changes)


def bytes_of(recipe, config=MISTRAL_7B, longest=1024, trained=None) -> int:
    found = estimate(recipe, config, longest, CARD, trained)
    assert found is not None
    assert found.memory_bytes == sum(found.parts.values())
    assert all(size >= 0 for size in found.parts.values())
    return found.memory_bytes


@pytest.mark.parametrize(("method", "published"), [("lora", 18), ("qlora", 9)])
def test_peaks_of_the_llama_factory_table_are_met_within_15_percent(method, published):
    """Llama-2-7B, r 8 on all modules, 4 x 1,024 tokens: 18 GB in 16 bits and 9 GB in 4 (LLaMA-Factory's wiki, Hugging Face's own attention)."""
    recipe = changed(gpu_recipe(method, 4, 8), target_modules=ALL_LINEAR, dropout=0.0)
    assert bytes_of(recipe, LLAMA_2_7B) / 1e9 == pytest.approx(published, rel=0.15)


@pytest.mark.parametrize(
    ("repo", "published"), [("meta-llama/Llama-3.1-8B-Instruct", 6), ("microsoft/phi-4", 8.5), ("meta-llama/Llama-3.1-70B-Instruct", 41)]
)
def test_estimates_lie_above_the_least_that_unsloth_publishes_by_at_most_a_half(repo, published):
    """Unsloth's minimum VRAM for QLoRA with its own kernels: one short example at a time."""
    card = known_base(repo)
    assert card is not None
    recipe = changed(gpu_recipe("qlora", 1, 16), target_modules=tuple(sorted(card.card.modules)))
    found = bytes_of(recipe, card.config, 256) / 1e9
    assert published <= found <= 1.5 * published


def test_parameters_are_those_of_the_known_bases():
    for card in known_bases():
        found = estimate(gpu_recipe("lora", 1, 16), card.config, 64, CARD)
        assert found is not None
        assert found.parameters == card.parameters == count_parameters(card.config)
    found = estimate(gpu_recipe("lora", 1, 16), MISTRAL_7B, 64, CARD)
    assert found is not None
    assert found.trainable == 13_631_488  # the proof of concept's adapter
    everything = estimate(changed(gpu_recipe("lora", 1, 16), target_modules=ALL_LINEAR), MISTRAL_7B, 64, CARD)
    assert everything is not None
    assert everything.trainable == 41_943_040


# Bytes per token and layer that torch.autograd.graph.saved_tensors_hooks counted on a Llama of hidden 256, MLP 896, 8 heads, 2 kv heads, adapters of rank 16.
COUNTED = [
    ({"dtype": "bfloat16"}, 15_016),
    ({"dtype": "bfloat16", "dropout": 0.0}, 10_920),
    ({"dtype": "bfloat16", "target_modules": ALL_LINEAR}, 23_560),
    ({"dtype": "bfloat16", "target_modules": ALL_LINEAR, "dropout": 0.0}, 13_832),
    ({"dtype": "bfloat16", "method": "qlora", "quantization": "nf4"}, 12_968),
    ({"dtype": "bfloat16", "method": "qlora", "quantization": "nf4", "dropout": 0.0}, 9_384),
    ({"dtype": "bfloat16", "method": "qlora", "quantization": "nf4", "target_modules": ALL_LINEAR}, 18_696),
    ({"dtype": "bfloat16", "method": "qlora", "quantization": "nf4", "target_modules": ALL_LINEAR, "dropout": 0.0}, 11_784),
    ({"dtype": "bfloat16", **FULL}, 15_144),
    ({"dtype": "float32"}, 23_848),
    ({"dtype": "float32", "dropout": 0.0}, 16_680),
    ({"dtype": "float32", "target_modules": ALL_LINEAR}, 35_304),
    ({"dtype": "float32", "target_modules": ALL_LINEAR, "dropout": 0.0}, 21_480),
    ({"dtype": "float32", **FULL}, 23_080),
]


@pytest.mark.parametrize(("settings", "counted"), COUNTED)
def test_a_layer_keeps_what_torch_was_seen_to_keep(settings, counted):
    config = {
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 512,
    }  # fmt: skip
    shapes = shapes_of(config)
    assert shapes is not None
    recipe = changed(gpu_recipe("lora", 1, 16), **settings)
    assert layer_bytes(shapes, recipe, on_gpu=False) == pytest.approx(counted, rel=0.01)


recipes = st.builds(
    lambda method, batch, r, packed, checkpointing, targets: changed(
        gpu_recipe(method, batch, r),
        target_modules=targets,
        gradient_checkpointing=checkpointing,
        **({"batching": "packed", "pack_length": 512} if packed else {}),
    ),
    st.sampled_from(["lora", "qlora"]),
    st.integers(1, 64),
    st.integers(1, 256),
    st.booleans(),
    st.booleans(),
    st.sampled_from([ATTENTION, ALL_LINEAR]),
)
lengths = st.integers(1, 4096)


@given(recipes, lengths, st.integers(1, 64), st.integers(1, 1024), st.integers(1, 256))
@settings(deadline=None, max_examples=100)
def test_more_of_anything_never_needs_less(recipe, longest, more_batch, more_tokens, more_rank):
    least = bytes_of(recipe, longest=longest)
    assert bytes_of(recipe, longest=longest + more_tokens) >= least
    assert bytes_of(changed(recipe, batch_size=recipe.batch_size + more_batch), longest=longest) > least
    assert bytes_of(changed(recipe, r=min(512, (recipe.r or 0) + more_rank)), longest=longest) > least
    assert (
        bytes_of(changed(recipe, gradient_checkpointing=False), longest=longest)
        >= bytes_of(changed(recipe, gradient_checkpointing=True), longest=longest) - longest * recipe.batch_size * 4096 * 4
    )
    assert bytes_of(recipe, longest=longest, trained=1) <= least


@given(recipes, lengths, st.integers(1_000, 200_000), st.integers(0, 100_000))
@settings(deadline=None, max_examples=50)
def test_more_memory_never_refuses_what_less_allowed(recipe, longest, memory, more):
    def allowed(size: int) -> bool:
        try:
            require_fit(recipe, BASE, Device("a card", size), longest)
        except Invalid:
            return False
        return True

    assert allowed(memory + more) or not allowed(memory)


@given(st.integers(1, 8), lengths)
@settings(deadline=None, max_examples=30)
def test_sharding_over_more_cards_never_needs_more_on_each(doublings, longest):
    recipe = gpu_recipe("lora", 4, 16)
    config = next(card.config for card in known_bases() if "70B" in card.repo)
    one, two = (
        bytes_of(changed(recipe, processes=n, sharding="fsdp" if n > 1 else "none"), config, longest)
        for n in (2**doublings, 2 ** (doublings + 1))
    )
    assert two <= one


def test_a_full_fine_tune_pays_16_bytes_a_weight_and_its_casts():
    found = estimate(changed(gpu_recipe("lora", 1, 16), **FULL), MISTRAL_7B, 64, CARD)
    assert found is not None
    n = found.parameters
    assert found.parts["adapter"] == 0
    assert found.trainable == n
    assert found.parts["gradients"] == 4 * n
    assert found.parts["optimizer"] == 8 * n
    assert 4 * n < found.parts["weights"] < 6 * n
    small = estimate(changed(gpu_recipe("lora", 1, 16), **FULL, optim="adamw_8bit"), MISTRAL_7B, 64, CARD)
    assert small is not None
    assert small.parts["optimizer"] / n == pytest.approx(2.03, rel=0.01)


def test_an_unknown_architecture_has_no_estimate_and_is_not_refused():
    gpt = BaseSpec("hub", "org/gpt", "1" * 40, config={"model_type": "gpt2", "n_embd": 768})
    assert estimate(gpu_recipe("lora", 1, 16), gpt.config or {}, 64, CARD) is None
    assert require_fit(gpu_recipe("lora", 1, 16), gpt, CARD, 64) is None


# --- time ---


def test_the_proof_of_concepts_rate_comes_back():
    found = duration(gpu_recipe("qlora", 4, 16), MISTRAL_7B, 1000 * 300, CARD)
    assert found.seconds == pytest.approx(270, rel=0.001)  # 1,000 examples took 266.5 s
    assert "RTX 4090" in found.basis


def test_time_is_scaled_by_parameters_work_and_card():
    def seconds(recipe, config=MISTRAL_7B, name="NVIDIA GeForce RTX 4090") -> float:
        found = duration(recipe, config, 300_000, Device(name, 1)).seconds
        assert found is not None
        return found

    qlora = gpu_recipe("qlora", 4, 16)
    big = next(card for card in known_bases() if "70B" in card.repo)
    assert seconds(qlora, big.config) / seconds(qlora) == pytest.approx(big.parameters / 7_248_023_552)
    assert seconds(qlora, name="NVIDIA A100-SXM4-80GB") / seconds(qlora) == pytest.approx(165.2 / 312)
    assert seconds(changed(qlora, gradient_checkpointing=False)) / seconds(qlora) == pytest.approx(4 / 6)
    assert seconds(changed(gpu_recipe("lora", 4, 16), **FULL)) / seconds(qlora) == pytest.approx(8 / 6)
    assert seconds(qlora, name="NVIDIA H100 PCIe") > seconds(qlora, name="NVIDIA H100 80GB HBM3")


def test_what_nobody_measured_or_published_is_unknown_and_says_why():
    recipe = gpu_recipe("qlora", 4, 16)
    assert duration(recipe, MISTRAL_7B, 1000, Device("NVIDIA Quadro P400", 2048)).seconds is None
    assert duration(recipe, MISTRAL_7B, 1000, None).seconds is None
    assert duration(changed(recipe, dtype="float32"), MISTRAL_7B, 1000, CARD).seconds is None
    several = duration(changed(recipe, processes=2, sharding="fsdp"), MISTRAL_7B, 1000, replace(CARD, count=2))
    assert (several.seconds, several.basis) == (None, "unknown: nobody measured several GPUs together here")
    assert duration(recipe, MISTRAL_7B, 1000, None, seconds_per_token=0.5).seconds == 500


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA A40", 149.7),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA RTX 6000 Ada Generation", 364.0),
    ],
)
def test_a_card_that_is_listed_has_its_peak(name, peak):
    found = duration(gpu_recipe("qlora", 4, 16), MISTRAL_7B, 300_000, Device(name, 1)).seconds
    assert found == pytest.approx(270 * 165.2 / peak, rel=0.001)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A4000",
        "NVIDIA RTX A400",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA A40-48Q",
        "NVIDIA GH200 480GB",
    ],
)
def test_a_card_that_only_looks_like_a_listed_one_is_unknown(name):
    assert duration(gpu_recipe("qlora", 4, 16), MISTRAL_7B, 300_000, Device(name, 1)).seconds is None


def test_what_a_time_was_scaled_by_is_said():
    def basis(recipe, name="NVIDIA GeForce RTX 4090") -> str:
        return duration(recipe, MISTRAL_7B, 1000, Device(name, 1)).basis.partition("RTX 4090, ")[2]

    qlora = gpu_recipe("qlora", 4, 16)
    full, peaks = changed(gpu_recipe("lora", 4, 16), **FULL), "by the cards' published peaks"
    assert basis(qlora) == "by parameters"
    assert basis(qlora, "NVIDIA H200") == f"by parameters and {peaks}"
    work = "by the work per token of this method and checkpointing"
    assert basis(changed(qlora, gradient_checkpointing=False)) == f"by parameters and {work}"
    assert basis(full, "NVIDIA H200") == f"by parameters, {work} and {peaks}"


def test_a_gigabyte_here_is_what_nvidia_smi_counts():
    assert GIB == 1024 * 1024 * 1024
