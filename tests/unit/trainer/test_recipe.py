"""The recipe: explicit, strict, stable in its digest, and free of torch."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import Invalid
from trainer.bases import BaseSpec
from trainer.chat import MISTRAL, packaged_digest
from trainer.preflight import MISTRAL_7B, Device
from trainer.recipe import ATTENTION, Recipe, default_recipe, make_recipe

TINY = BaseSpec(
    "builtin", "adapter-registry/tiny-mistral", "0" * 40, path=Path("x"), config={**MISTRAL_7B, "hidden_size": 64, "intermediate_size": 128}
)
MISTRAL_7B_BASE = BaseSpec("hub", "mistralai/Mistral-7B-Instruct-v0.3", "1" * 40, config={**MISTRAL_7B, "max_position_embeddings": 32768})
CARD = Device("NVIDIA GeForce RTX 4090", 24564)
# Changes only together with a changed default or a changed template; then every registered version keeps its own digest, and new ones get a new one.
GOLDEN = "sha256:242cb8d57da629d753d6e87b51508edda3732e5080b76ed1d1235495710a82d0"


def test_the_default_recipe_of_the_tiny_base_keeps_its_digest():
    assert default_recipe(TINY, None).digest == GOLDEN


def test_json_round_trip_keeps_value_and_digest():
    recipe = default_recipe(MISTRAL_7B_BASE, CARD)
    again = Recipe.from_json(recipe.as_json())
    assert again == recipe
    assert again.digest == recipe.digest


def test_every_field_is_in_the_json():
    recipe = default_recipe(TINY, None)
    assert set(recipe.as_json()) == {f.name for f in dataclasses.fields(Recipe)}
    assert all(f.default is dataclasses.MISSING for f in dataclasses.fields(Recipe) if f.name != "format")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r", 8),
        ("alpha", 16),
        ("dropout", 0.1),
        ("learning_rate", 1e-4),
        ("epochs", 4),
        ("max_steps", None),
        ("chat_template", "plain"),
        ("threads", 1),
    ],
)
def test_every_choice_changes_the_digest(name, value):
    recipe = default_recipe(TINY, None)
    assert recipe.with_changes(**{name: value}).digest != recipe.digest


def test_a_whole_number_and_its_fraction_are_the_same_recipe():
    recipe = default_recipe(TINY, None)
    assert recipe.with_changes(dropout=0).digest == recipe.with_changes(dropout=0.0).digest


def test_unknown_and_missing_settings_are_refused_with_a_sentence():
    value = default_recipe(TINY, None).as_json()
    with pytest.raises(Invalid, match="no setting 'lerning_rate'") as error:
        Recipe.from_json({**value, "lerning_rate": 1})
    assert error.value.hint == "Did you mean learning_rate?"
    del value["epochs"]
    with pytest.raises(Invalid, match="missing: epochs"):
        Recipe.from_json(value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0}, "r lies between 1 and 512; found 0"),
        ({"r": 16.5}, "r is of type int"),
        ({"r": True}, "r is of type int"),
        ({"r": "16"}, "r is of type int"),
        ({"learning_rate": float("nan")}, "learning_rate lies between"),
        ({"dropout": 1.0}, "dropout lies between"),
        ({"method": "dora"}, "method is lora or qlora or full; found 'dora'"),
        ({"method": "qlora"}, "qlora goes with quantization nf4"),
        ({"method": "full"}, "r and alpha are null exactly when the method is full"),
        ({"targets": "none"}, "targets are none exactly when the method is full"),
        ({"batching": "packed"}, "pack_length is a number of tokens up to max_length exactly when batching is packed"),
        ({"batching": "packed", "pack_length": 9000}, "up to max_length"),
        ({"pack_length": 512}, "exactly when batching is packed"),
        ({"processes": 2}, "sharding is fsdp exactly when processes is above 1"),
        ({"processes": 2, "sharding": "fsdp"}, "several processes train on GPUs only"),
        ({"lora_plus_ratio": 0.5}, "lora_plus_ratio lies between"),
        ({"kept_checkpoints": 21}, "kept_checkpoints lies between"),
        ({"packing": True}, "no setting 'packing'"),
        ({"use_dora": True}, "DoRA is refused: no serving engine"),
        ({"init_lora_weights": "pissa"}, "they rewrite the base's own weights"),
        ({"modules_to_save": ["lm_head"]}, "Whole modules beside the LoRA pairs are refused"),
        ({"rank_pattern": {}}, "regular expressions, which can hang a loader"),
        ({"rslora": 1}, "rslora is of type bool"),
        ({"target_modules": []}, "targets are none exactly when the method is full"),
        ({"target_modules": "q_proj"}, "list of names"),
        ({"chat_template": "chatml"}, "chat_template is .*mistral-v0.3.* or base"),
        ({"chat_template_sha256": "sha256:abc"}, "with its sha256"),
        ({"max_steps": 0}, "max_steps lies between"),
        ({"format": "recipe/1"}, "reads recipes of the format recipe/2; found 'recipe/1'"),
    ],
)
def test_values_that_could_not_train_are_refused(changes, words):
    with pytest.raises(Invalid, match=words):
        default_recipe(TINY, None).with_changes(**changes)


def test_targets_are_sorted_whatever_their_order():
    recipe = default_recipe(TINY, None)
    assert recipe.target_modules == ATTENTION == tuple(sorted(ATTENTION))
    assert recipe.with_changes(target_modules=list(reversed(ATTENTION))).digest == recipe.digest


def test_defaults_for_mistral_on_a_gpu_are_qlora_in_nf4():
    recipe = default_recipe(MISTRAL_7B_BASE, CARD)
    assert (recipe.method, recipe.quantization, recipe.double_quantization) == ("qlora", "nf4", True)
    assert (recipe.r, recipe.alpha, recipe.target_modules) == (16, 32, ("k_proj", "o_proj", "q_proj", "v_proj"))
    assert (recipe.device, recipe.dtype, recipe.gradient_checkpointing) == ("cuda", "bfloat16", True)
    assert (recipe.chat_template, recipe.chat_template_sha256) == (MISTRAL, packaged_digest(MISTRAL))


def test_defaults_on_a_cpu_are_lora_in_32_bits():
    recipe = default_recipe(TINY, None)
    assert (recipe.method, recipe.quantization, recipe.r, recipe.alpha) == ("lora", "none", 16, 32)
    assert (recipe.device, recipe.dtype) == ("cpu", "float32")


def test_the_builtin_base_trains_on_the_cpu_even_beside_a_gpu():
    assert default_recipe(TINY, CARD) == default_recipe(TINY, None)


def test_small_models_on_a_gpu_are_not_quantised():
    small = BaseSpec(
        "hub",
        "org/small",
        "2" * 40,
        config={**MISTRAL_7B, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536},
    )
    assert default_recipe(small, CARD).method == "lora"


def test_other_bases_use_their_own_template_or_the_plain_one():
    own = BaseSpec("hub", "org/name", "3" * 40, config={"max_position_embeddings": 512}, chat_template_sha256="sha256:" + "b" * 64)
    assert (default_recipe(own, None).chat_template, default_recipe(own, None).chat_template_sha256) == ("base", "sha256:" + "b" * 64)
    assert default_recipe(own, None).max_length == 512
    assert default_recipe(BaseSpec("hub", "org/name", "3" * 40), None).chat_template == "plain"


PHI = BaseSpec(
    "hub",
    "org/phi",
    "4" * 40,
    config={
        "model_type": "phi3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100,
    },
)  # fmt: skip


def test_a_profile_means_the_modules_of_the_architecture():
    assert default_recipe(PHI, None).target_modules == ("o_proj", "qkv_proj")
    everything = make_recipe(PHI, None, {"targets": "all-linear"})
    assert everything.target_modules == ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")
    with pytest.raises(Invalid, match="The profile attention means o_proj, qkv_proj on org/phi; found q_proj"):
        make_recipe(PHI, None, {"targets": "attention", "target_modules": ["q_proj"]})
    assert make_recipe(PHI, None, {"target_modules": ["o_proj"]}).targets == "custom"
    unknown = BaseSpec("hub", "org/other", "5" * 40, config={"model_type": "falcon"})
    with pytest.raises(Invalid, match="so all-linear has no meaning on it"):
        make_recipe(unknown, None, {"targets": "all-linear"})


def test_a_method_brings_what_belongs_to_it():
    full = make_recipe(MISTRAL_7B_BASE, None, {"method": "full"})
    assert (full.r, full.alpha, full.targets, full.target_modules, full.dropout, full.learning_rate) == (None, None, "none", (), 0.0, 2e-5)
    assert make_recipe(MISTRAL_7B_BASE, None, {"method": "full", "learning_rate": 1e-4}).learning_rate == 1e-4
    assert make_recipe(TINY, None, {"method": "qlora"}).quantization == "nf4"
    packed = make_recipe(MISTRAL_7B_BASE, None, {"batching": "packed", "max_length": 1000})
    assert (packed.pack_length, packed.max_length) == (1000, 1000)


def test_a_full_fine_tune_that_the_gate_could_not_check_is_refused_before_it_is_trained():
    unknown = BaseSpec("hub", "org/other", "5" * 40, config={"model_type": "falcon"})
    with pytest.raises(Invalid, match="Full fine-tunes of 'org/other' cannot be checked") as error:
        make_recipe(unknown, None, {"method": "full"})
    assert error.value.hint == "Train an adapter: --method lora or qlora."
    assert make_recipe(unknown, None, {"method": "lora"}).method == "lora"


def test_the_builtin_base_is_quantised_only_when_asked():
    assert default_recipe(TINY, CARD).quantization == "none"


@pytest.mark.parametrize(
    "module",
    [
        "recipe",
        "bases",
        "preflight",
        "estimate",
        "choice",
        "counting",
        "packing",
        "borrowed",
        "spec",
        "process",
        "chat",
        "examples",
        "output",
        "failures",
        "child",
        "tiny.builtin",
    ],
)
def test_modules_load_without_torch(module):
    code = f"import sys, trainer.{module}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {{'torch', 'transformers', 'peft', 'trl', 'datasets', 'numpy'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
