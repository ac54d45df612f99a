"""The gate for full fine-tunes: whole models pass, and each way to be broken has its own sentence.

Models are built by hand from the card's own list of tensors, which the tests at the end hold against real models of the four architectures.
"""

import hashlib
import json
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors_kit import bf16, entries, pack, safetensors

from registry.adapter_files import (
    FULL_FILES,
    AdapterFacts,
    BaseCard,
    FullFacts,
    base_card_from_config,
    canonical_full_config,
    check_full,
    check_version_files,
    full_problems,
    model_tensors,
    rewritten_config,
    tuned_config,
)
from registry.adapter_files.full_config import FORBIDDEN, HARMLESS, SETTINGS
from registry.errors import Invalid

REPO, REVISION = "example/tiny-llama", "0123456789abcdef0123456789abcdef01234567"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# What transformers 5.23 writes for a tiny LlamaConfig.
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "dtype": "float32",
    "eos_token_id": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "transformers_version": "5.23.0",
    "use_cache": True,
    "vocab_size": 64,
}
SIZES = {
    key: LLAMA[key]
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
}
Q = "model.layers.0.self_attn.q_proj.weight"
Tensors = dict[str, np.ndarray]


def card(config: Mapping[str, Any] = LLAMA, weights_sha256: str | None = None) -> BaseCard:
    found = base_card_from_config(config, REPO, REVISION, weights_sha256)
    assert found is not None
    return found


def tensors(config: Mapping[str, Any] = LLAMA) -> Tensors:
    random = np.random.default_rng(7)
    return {name: random.normal(0, 0.1, shape).astype("<f4") for name, shape in model_tensors(card(config)).items()}


class Model:
    """A good full fine-tune in a folder, to be spoiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = dict(LLAMA)
        self.tensors = tensors()
        self.base: BaseCard | None = card()
        self.extra: dict[str, bytes] = {}

    def files(self) -> dict[str, Path]:
        content = {WEIGHTS: safetensors(self.tensors), CONFIG: json.dumps(self.config).encode(), "README.md": b"# Elena\n"} | self.extra
        for name, data in content.items():
            (self.folder / name).write_bytes(data)
        return {name: self.folder / name for name in content}

    def problems(self) -> list[str]:
        return full_problems(self.files(), self.base)

    def rename(self, change: Callable[[str], str]) -> None:
        self.tensors = {change(name): array for name, array in self.tensors.items()}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path)


def test_a_good_model_enters_and_its_facts_are_told(model: Model) -> None:
    files = model.files()
    assert check_version_files(files, model.base) == FullFacts(
        model_type="llama",
        layers=2,
        parameters=19616,
        dtype="F32",
        weights_bytes=files[WEIGHTS].stat().st_size,
        shapes_known=True,
        canonical=canonical_full_config(LLAMA, model.base),
    )
    del files["README.md"]
    assert check_full(files, model.base).config_file == CONFIG


@pytest.mark.parametrize(("name", "convert"), [("bfloat16", bf16), ("float16", lambda a: a.astype("<f2"))])
def test_half_precision(model: Model, name: str, convert: Callable[[np.ndarray], np.ndarray]) -> None:
    model.config["dtype"] = name
    model.tensors = {n: convert(a) for n, a in model.tensors.items()}
    assert check_full(model.files(), model.base).dtype == {"bfloat16": "BF16", "float16": "F16"}[name]
    model.tensors["model.norm.weight"] = np.ones(32, "<f4")
    (found,) = model.problems()
    assert "as config.json says, found F32 in 'model.norm.weight'. Save the model in one dtype" in found


@pytest.mark.parametrize("base", [BaseCard(REPO, REVISION), None])
def test_without_a_card_the_model_is_held_against_its_own_config(model: Model, base: BaseCard | None) -> None:
    model.base = base
    assert check_full(model.files(), base).shapes_known is False
    model.config["hidden_size"] = 40
    assert any("as config.json says" in p for p in model.problems())
    model.config |= {"hidden_size": 32, "model_type": "gemma3"}
    assert model.problems() == [
        (
            f"{CONFIG}: expected model_type to be one of mistral, llama, qwen2, phi3, found 'gemma3'. "
            "Full fine-tunes of other architectures cannot be checked here: train an adapter."
        )
    ]
    model.config |= {"model_type": "llama", "num_hidden_layers": 5000}
    assert any("num_hidden_layers to be a whole number from 1 to 1000" in p for p in model.problems())


def _other_size(model: Model) -> None:
    model.config |= {"hidden_size": 64, "head_dim": 16}
    model.tensors = tensors(model.config)


def _lora(model: Model) -> None:
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    model.tensors = {f"{prefix}.lora_A.weight": np.ones((4, 32), "<f4"), f"{prefix}.lora_B.weight": np.ones((32, 4), "<f4")}


def _layers(count: int) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        model.tensors = tensors(LLAMA | {"num_hidden_layers": count})

    return change


def _vocabulary(model: Model) -> None:
    model.tensors = tensors(LLAMA | {"vocab_size": 65})


def _tied_base(model: Model) -> None:
    """The base ties its embeddings; the file holds the head as well."""
    model.base = card(LLAMA | {"tie_word_embeddings": True})
    model.config["tie_word_embeddings"] = True


def _value(name: str, value: float) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        model.tensors[name].flat[3] = value

    return change


BROKEN: dict[str, tuple[Callable[[Model], object], str]] = {
    "another hidden size": (
        _other_size,
        f"{CONFIG}: expected hidden_size to be 32, as the base has, found 64. A full fine-tune keeps all settings",
    ),
    "tensors of another hidden size": (
        lambda m: m.tensors.update({Q: np.ones((32, 40), "<f4")}),
        f"{WEIGHTS}: expected q_proj.weight of 32 x 32, as the base has, found 32 x 40 in '{Q}'.",
    ),
    "missing layer": (_layers(1), f"{WEIGHTS}: expected all 2 layers, as the base has, found no layer 1. Save the whole model"),
    "extra layer": (_layers(3), f"{WEIGHTS}: expected layers 0 to 1, as the base has, found layer 2. It is no fine-tune of this base"),
    "missing tensor": (lambda m: m.tensors.pop(Q), f"{WEIGHTS}: expected every tensor of the model, as the base has, found no {Q}."),
    "head where embeddings are tied": (
        _tied_base,
        f"{WEIGHTS}: expected no lm_head.weight, because tie_word_embeddings is true, found one. Save the model with its embeddings tied.",
    ),
    "no head where they are not": (
        lambda m: m.tensors.pop("lm_head.weight"),
        f"{WEIGHTS}: expected lm_head.weight, because tie_word_embeddings is false, found none.",
    ),
    "config tied, base not": (
        lambda m: (m.config.update(tie_word_embeddings=True), m.tensors.pop("lm_head.weight")),
        f"{CONFIG}: expected tie_word_embeddings to be false, as the base has, found true.",
    ),
    "NaN": (_value(Q, np.nan), f"{WEIGHTS}: expected only finite values, found NaN or infinity in '{Q}'."),
    "infinity in a norm": (
        _value("model.norm.weight", np.inf),
        "expected only finite values, found NaN or infinity in 'model.norm.weight'.",
    ),
    "too large for half precision": (_value(Q, 1e6), f"expected values of at most 65504, found 1e+06 in '{Q}'."),
    "all zero": (lambda m: m.tensors[Q].fill(0), f"{WEIGHTS}: expected matrices and norms that are not all zero, found '{Q}'."),
    "transposed matrix": (
        lambda m: m.tensors.update({n: a.T.copy() for n, a in m.tensors.items() if n.endswith("0.mlp.down_proj.weight")}),
        f"{WEIGHTS}: expected down_proj.weight of 32 x 48, rows first, as the base has, found it transposed: 48 x 32 in",
    ),
    "wrong vocabulary": (
        _vocabulary,
        f"{WEIGHTS}: expected a vocabulary of 64 tokens, as the base has, found 65 in 'lm_head.weight', 65 in 'model.embed_tokens.weight'.",
    ),
    "LoRA file under the full name": (
        _lora,
        f"{WEIGHTS}: expected the tensors of a whole model, found 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'",
    ),
    "pickle under the full name": (
        lambda m: m.extra.update({WEIGHTS: b"\x80\x04\x95" + b"." * 100}),
        f"{WEIGHTS}: expected a header of at most 1048576 bytes",
    ),
    "pickled weights": (
        lambda m: m.extra.update({"pytorch_model.bin": b"\x80\x04"}),
        "The upload: expected only model.safetensors, config.json, README.md, found 'pytorch_model.bin'. Leave the rest out: pickles",
    ),
    "sharded": (
        lambda m: m.extra.update({"model.safetensors.index.json": b"{}", "model-00001-of-00002.safetensors": b""}),
        "The upload: expected the weights in one file, found 'model-00001-of-00002.safetensors', 'model.safetensors.index.json'. Save them",
    ),
    "an adapter beside it": (
        lambda m: m.extra.update({"adapter_config.json": b"{}"}),
        "The upload: expected only model.safetensors, config.json, README.md, found 'adapter_config.json'.",
    ),
    "buffers of old": (
        lambda m: m.tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, "<f4")}),
        "expected only tensors of the base's model, found 'model.layers.0.self_attn.rotary_emb.inv_freq'. Loaders leave it out",
    ),
    "truncated": (lambda m: m.extra.update({WEIGHTS: safetensors(m.tensors)[:-8]}), "the file is cut short."),
    "no tensors": (lambda m: m.extra.update({WEIGHTS: pack({}, b"")}), f"{WEIGHTS}: expected the tensors of a model, found none."),
    "three dimensions": (
        lambda m: m.tensors.update({Q: np.ones((1, 32, 32), "<f4")}),
        "expected each shape to be one or two whole numbers from 1, as vectors and matrices have, found [1, 32, 32]",
    ),
    "quantised": (lambda m: m.tensors.update({Q: np.ones((32, 32), "|i1")}), "expected tensors of F32, BF16 or F16, found 'I8'"),
    "another architecture": (
        lambda m: m.config.update(model_type="mistral", architectures=["MistralForCausalLM"]),
        f"{CONFIG}: expected model_type to be 'llama', as the base has, found 'mistral'.",
    ),
    "a classifier": (
        lambda m: m.config.update(architectures=["LlamaForSequenceClassification"]),
        f"{CONFIG}: expected architectures to be ['LlamaForCausalLM'], found ['LlamaForSequenceClassification'].",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models(model: Model, name: str) -> None:
    spoil, sentence = BROKEN[name]
    spoil(model)
    assert [p for p in model.problems() if sentence in p], model.problems()
    with pytest.raises(Invalid) as refused:
        check_full(model.files(), model.base)
    assert refused.value.message.startswith("This full fine-tune is refused")
    assert sentence in refused.value.message
    assert refused.value.hint


def test_a_copy_of_the_base_is_refused(model: Model) -> None:
    files = model.files()
    own = "sha256:" + hashlib.sha256(files[WEIGHTS].read_bytes()).hexdigest()
    for base in (card(weights_sha256=own), BaseCard(REPO, REVISION, weights_sha256=own)):
        assert full_problems(files, base) == [
            f"{WEIGHTS}: expected weights that differ from the base's, found the base's own file. It is a no-op: train for at least one step at a learning rate above 0."
        ]
    assert full_problems(files, card(weights_sha256="sha256:" + "0" * 64)) == []


def test_every_fault_is_listed_at_once(model: Model) -> None:
    model.config |= {
        "auto_map": {"AutoModel": "x.Y"},
        "vocab_size": 65,
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
        "x": 1,
    }
    del model.tensors[Q]
    model.tensors["model.norm.weight"][0] = np.nan
    model.extra["evil.py"] = b""
    found = model.problems()
    for part in ("evil.py", "no auto_map", "vocab_size to be 64", "rope_theta to be 10000", "the key 'x'", f"no {Q}", "only finite"):
        assert sum(part in p for p in found) == 1, (part, found)
    assert len(found) == 7


def test_weights_over_the_cap_are_not_read(model: Model) -> None:
    files = model.files()
    with files[WEIGHTS].open("r+b") as file:
        file.truncate(FULL_FILES[WEIGHTS] + 1)  # sparse: takes no disk
    assert full_problems(files, model.base) == [
        f"{WEIGHTS}: expected at most 161061273600 bytes, found 161061273601. Save the weights in bfloat16."
    ]


# The config


CONFIG_ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "code from a hub": (
        {"auto_map": {"AutoModelForCausalLM": "x--y.Z"}},
        "expected no auto_map, found {'AutoModelForCausalLM': 'x--y.Z'}. It can make a loader",
    ),
    "trust": ({"trust_remote_code": True}, "expected no trust_remote_code, found true. It can make a loader run or fetch code"),
    "kernel from a hub": (
        {"_attn_implementation_internal": "evil/kernel"},
        "expected no _attn_implementation_internal, found 'evil/kernel'.",
    ),
    "quantised": (
        {"quantization_config": {"load_in_4bit": True}},
        "expected no quantization_config, found {'load_in_4bit': True}. It says that",
    ),
    "layers of their own": ({"per_layer_config": {"0": {}}}, "expected no per_layer_config, found {'0': {}}."),
    "an adapter's config": ({"peft_type": "LORA"}, "expected no peft_type, found 'LORA'. It belongs to an adapter"),
    "unknown key": ({"runtime": 1}, "expected only settings of the base's architecture, found the key 'runtime'. Leave it out"),
    "another architecture's key": ({"use_sliding_window": True}, "found the key 'use_sliding_window'."),
    "a path": (
        {"_name_or_path": "/root/.ssh"},
        f"expected _name_or_path to be the registered base '{REPO}' or left out, found '/root/.ssh'.",
    ),
    "a list for a path": ({"_name_or_path": ["x"]}, "found ['x']. A path or another model's name never enters"),
    "rotation": (
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}},
        "expected rope_scaling to be null, as the base has, found {'factor': 4.0, 'rope_type': 'linear'}.",
    ),
    "two rotations": (
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "expected either rope_scaling or rope_parameters, found both.",
    ),
    "rotation of nonsense": (
        {"rope_parameters": {"rope_theta": 1e4, "evil": "x"}},
        "expected only rotary settings that transformers knows, found 'evil' 'x'.",
    ),
    "rotation by no number": ({"rope_parameters": {"rope_theta": 0}}, "expected rope_theta to be a number above 0, found 0."),
    "partial rotation": ({"partial_rotary_factor": 0.5}, "expected partial_rotary_factor to be 1.0, as the base has, found 0.5."),
    "stops elsewhere": ({"eos_token_id": [2, 5]}, "expected eos_token_id to be 2, as the base has, found [2, 5]."),
    "biases": ({"attention_bias": True}, "expected attention_bias to be false, as the base has, found true."),
    "false is not 0": ({"attention_bias": 0}, "expected attention_bias to be true or false, found 0."),
    "activation": ({"hidden_act": "gelu"}, "expected hidden_act to be 'silu', as the base has, found 'gelu'."),
    "activation of no name": ({"hidden_act": ["x"]}, "expected hidden_act to be the name of an activation, found ['x']."),
    "norm": ({"rms_norm_eps": 1e-05}, "expected rms_norm_eps to be 1e-06, as the base has, found 1e-05."),
    "context": ({"max_position_embeddings": 4096}, "expected max_position_embeddings to be 2048, as the base has, found 4096."),
    "size of truth": ({"vocab_size": True}, "expected vocab_size to be a whole number from 1, found true."),
    "size left out": ({"hidden_size": None}, "expected hidden_size to be a whole number from 1, found null."),
    "heads": ({"num_key_value_heads": 4}, "expected num_key_value_heads to be 2, as the base has, found 4."),
    "heads of 0": ({"num_attention_heads": 0}, "expected num_attention_heads to be a whole number from 1, found 0."),
    "huge number": ({"rms_norm_eps": 10**400}, "expected rms_norm_eps to be a number, found"),
    "padding beyond the vocabulary": ({"pad_token_id": 64}, "expected pad_token_id to be below the vocabulary's size of 64, found 64."),
    "dtype": ({"dtype": "float8_e4m3fn"}, "expected dtype to be float32, bfloat16, float16, found 'float8_e4m3fn'."),
    "two dtypes": ({"torch_dtype": "bfloat16"}, "expected dtype to be float32, bfloat16, float16, found 'float32' and 'bfloat16'."),
    "no dtype": ({"dtype": None}, "expected dtype to be float32, bfloat16, float16, found none."),
    "version": ({"transformers_version": "<script>"}, "expected transformers_version to be a version such as 5.23.0, found '<script>'."),
    "encoder": ({"is_encoder_decoder": True}, "expected is_encoder_decoder to be false, found true. Leave it out."),
}


@pytest.mark.parametrize("name", CONFIG_ATTACKS)
def test_config_attacks(model: Model, name: str) -> None:
    change, sentence = CONFIG_ATTACKS[name]
    model.config |= change
    found = model.problems()
    assert any(p.startswith(f"{CONFIG}: ") and sentence in p for p in found), found
    with pytest.raises(Invalid, match="expected"):
        canonical_full_config(model.config, model.base)


@pytest.mark.parametrize("key", sorted(FORBIDDEN))
def test_forbidden_keys_are_refused_whatever_they_hold(key: str) -> None:
    for value in (None, {}, "x"):
        with pytest.raises(Invalid, match=f"expected no {key}, found"):
            canonical_full_config(LLAMA | {key: value}, card())


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"\xff", b'{"a":' + b"[" * 30000 + b"]" * 30000 + b"}"])
def test_config_that_is_no_strict_json(model: Model, raw: bytes) -> None:
    model.extra[CONFIG] = raw
    assert any(p.startswith(f"{CONFIG}: expected one JSON object, found ") for p in model.problems()), model.problems()


def test_canonical_config_ignores_order_spelling_and_cosmetics_only() -> None:
    base = card()
    first = canonical_full_config(LLAMA, base)
    told = json.loads(first)
    assert (told["rope_theta"], told["rope_scaling"], told["torch_dtype"], told["use_cache"]) == (10000, None, "float32", True)
    assert not told.keys() & {"rope_parameters", "dtype", "transformers_version", "_name_or_path", "partial_rotary_factor"}
    older = {k: v for k, v in LLAMA.items() if k not in {"rope_parameters", "dtype", "head_dim", "attention_bias"}}
    older |= {
        "rope_theta": 10000,
        "torch_dtype": "float32",
        "use_cache": False,
        "_name_or_path": REPO,
        "transformers_version": "4.42.0.dev0",
    }
    for same in (dict(reversed(LLAMA.items())), older, told, LLAMA | {key: values[0] for key, values in HARMLESS.items()}):
        assert canonical_full_config(same, base) == first
    assert canonical_full_config(LLAMA | {"pad_token_id": 5}, base) != first
    assert canonical_full_config(LLAMA | {"dtype": "bfloat16"}, base) != first


def test_long_contexts_and_windows_are_settings_like_others() -> None:
    scaled = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    hub = {k: v for k, v in LLAMA.items() if k != "rope_parameters"} | {"rope_theta": 500000.0, "rope_scaling": scaled}
    saved = LLAMA | {"rope_parameters": {"rope_theta": 500000.0, **scaled}}
    assert canonical_full_config(hub, card(hub)) == canonical_full_config(saved, card(hub))
    assert json.loads(canonical_full_config(hub, card(hub)))["rope_scaling"] == scaled
    qwen = SIZES | {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "dtype": "float32",
        "max_window_layers": 1,
        "sliding_window": 64,
    }
    plain = json.loads(canonical_full_config(qwen, card(qwen)))
    assert (plain["sliding_window"], plain["layer_types"]) == (None, ["full_attention"] * 2)
    windowed = json.loads(canonical_full_config(qwen | {"use_sliding_window": True}, card(qwen | {"use_sliding_window": True})))
    assert (windowed["sliding_window"], windowed["layer_types"]) == (64, ["full_attention", "sliding_attention"])
    with pytest.raises(Invalid, match="layer_types to follow from use_sliding_window"):
        canonical_full_config(qwen | {"layer_types": ["sliding_attention"] * 2}, card(qwen))
    phi = SIZES | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "dtype": "float32", "pad_token_id": 0}
    rope = {"type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    long = json.loads(canonical_full_config(phi | {"rope_scaling": rope}, card(phi | {"rope_scaling": rope})))
    assert (long["rope_scaling"]["rope_type"], long["rope_scaling"]["original_max_position_embeddings"]) == ("longrope", 4096)


def test_the_config_that_a_trainer_writes_is_the_canonical_one() -> None:
    base = card(LLAMA | {"auto_map": {"AutoModel": "x.Y"}, "quantization_config": {}, "_name_or_path": "/tmp/base", "strange": 1})
    written = tuned_config(base, "bfloat16")
    assert canonical_full_config(json.loads(written), base) == written
    assert written == canonical_full_config(LLAMA | {"dtype": "bfloat16"}, base)
    with pytest.raises(Invalid, match="cannot be checked, because its architecture is none of mistral"):
        tuned_config(BaseCard(REPO, REVISION), "bfloat16")


def test_a_config_in_other_bytes_is_told_from_a_canonical_one(model: Model) -> None:
    files = model.files()
    facts = check_version_files(files, model.base)
    assert rewritten_config(files, facts) == facts.canonical
    files[CONFIG].write_bytes(facts.canonical)
    assert rewritten_config(files, check_version_files(files, model.base)) is None


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(VALUES, lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(max_size=8), i, max_size=3), max_leaves=8)
SOON = settings(deadline=2000, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


TEXTS = st.text(st.characters(), max_size=8)  # lone surrogates too, which JSON can spell and UTF-8 cannot
ANY = st.recursive(
    VALUES | TEXTS,
    lambda i: st.lists(i, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "x"]) | TEXTS, i, max_size=3),
)


@SOON
@given(
    key=st.sampled_from(["rope_scaling", "rope_parameters"]), rope=st.dictionaries(st.sampled_from(["rope_type", "type", "factor"]), ANY)
)
@example(key="rope_scaling", rope={"rope_type": []})
@example(key="rope_parameters", rope={"type": {}})
@example(key="rope_scaling", rope={"rope_type": "\ud800"})
def test_any_json_in_the_rotary_settings(folder: Path, key: str, rope: dict[str, Any]) -> None:
    for kind in ({}, {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}):
        check_bytes(folder, config=json.dumps(LLAMA | kind | {key: rope}).encode())


@SOON
@given(data=st.data(), value=JSON)
def test_any_json_under_any_key_of_the_config(folder: Path, data: st.DataObject, value: Any) -> None:
    """What is accepted has one canonical form, which is accepted and its own."""
    key = data.draw(
        st.sampled_from(sorted({*LLAMA, *HARMLESS, *FORBIDDEN, *SETTINGS["qwen2"], "rope_scaling", "layer_types"})) | st.text(max_size=8)
    )
    config = LLAMA | {key: value}
    check_bytes(folder, config=json.dumps(config).encode())
    for base in (card(), None):
        try:
            once = canonical_full_config(config, base)
        except Invalid:
            continue
        assert canonical_full_config(json.loads(once), base) == once


# Hostile bytes: nothing but a list of problems comes out, and soon.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


GOOD = safetensors(tensors())


def check_bytes(folder: Path, weights: bytes = GOOD, config: bytes | None = None) -> list[str]:
    files = {WEIGHTS: folder / WEIGHTS, CONFIG: folder / CONFIG}
    files[WEIGHTS].write_bytes(weights)
    files[CONFIG].write_bytes(config if config is not None else json.dumps(LLAMA).encode())
    found = full_problems(files, card())
    assert isinstance(full_problems(files, None), list)
    assert all(p.isascii() and p.isprintable() and len(p) < 1500 for p in found)
    return found


@SOON
@given(data=st.binary(max_size=300))
def test_random_bytes(folder: Path, data: bytes) -> None:
    assert check_bytes(folder, weights=data)
    assert check_bytes(folder, weights=len(data).to_bytes(8, "little") + data)
    assert check_bytes(folder, config=data)


@SOON
@given(data=st.data())
def test_truncated_anywhere(folder: Path, data: st.DataObject) -> None:
    assert check_bytes(folder, weights=GOOD[: data.draw(st.integers(0, len(GOOD) - 1))])


@SOON
@given(data=st.data())
def test_flipped_bytes_in_the_header(folder: Path, data: st.DataObject) -> None:
    spoiled = bytearray(GOOD)
    end = 8 + int.from_bytes(GOOD[:8], "little")
    for at in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=4)):
        spoiled[at] = data.draw(st.integers(0, 255))
    check_bytes(folder, weights=bytes(spoiled))


@SOON
@given(data=st.data(), value=JSON)
def test_any_json_in_any_place_of_the_header(folder: Path, data: st.DataObject, value: Any) -> None:
    header = entries(tensors())
    name = data.draw(st.sampled_from(sorted(header)))
    if name == "__metadata__" or data.draw(st.booleans()):
        header[name] = value
    else:
        header[name][data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))] = value
    check_bytes(folder, weights=pack(header, GOOD[-4 * 19616 :]))


def test_time_and_memory_do_not_grow_with_the_file(tmp_path: Path) -> None:
    """108 MB of bf16 in less than a second of this process per 27 MB; the figure is printed. Memory: 1 MiB and the header."""
    config = LLAMA | {
        "hidden_size": 1024,
        "head_dim": 256,
        "intermediate_size": 4096,
        "vocab_size": 8192,
        "num_hidden_layers": 2,
        "dtype": "bfloat16",
    }
    base = card(config, "sha256:" + "0" * 64)
    content = {name: np.full(shape, 0x3C00, "<u2") for name, shape in model_tensors(base).items()}
    files = {WEIGHTS: tmp_path / WEIGHTS, CONFIG: tmp_path / CONFIG}
    files[WEIGHTS].write_bytes(safetensors(content))
    files[CONFIG].write_text(json.dumps(config))
    del content
    started = time.process_time()
    facts = check_full(files, base)
    took = time.process_time() - started
    tracemalloc.start()
    check_full(files, base)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{facts.weights_bytes / 1e6:.1f} MB checked and hashed in {took:.3f} s, {peak / 1e6:.1f} MB at the peak")
    assert took * 27e6 / facts.weights_bytes < 1
    assert peak < 8e6


# With the real libraries

KINDS = {"mistral": "Mistral", "llama": "Llama", "qwen2": "Qwen2", "phi3": "Phi3"}


def tiny(kind: str, **more: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(1)
    config = getattr(transformers, f"{KINDS[kind]}Config")(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more)
    return getattr(transformers, f"{KINDS[kind]}ForCausalLM")(config)


@pytest.mark.train
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "more"),
    [("float32", {}), ("bfloat16", {"tie_word_embeddings": True}), ("float16", {})],
    ids=["float32", "bfloat16 tied", "float16"],
)
def test_what_transformers_saves_is_accepted_and_what_is_accepted_it_loads(
    kind: str, dtype: str, more: dict[str, Any], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    biases = {"attention_bias": True, "mlp_bias": True} if kind == "llama" and dtype == "float16" else {}
    model = tiny(kind, **more, **biases).to(getattr(torch, dtype)).eval()
    saved, stored = tmp_path / "saved", tmp_path / "stored"
    model.save_pretrained(saved)
    base = base_card_from_config(json.loads((saved / CONFIG).read_text()), REPO, REVISION)
    files = {name: saved / name for name in (WEIGHTS, CONFIG)}
    facts = check_version_files(files, base)
    assert isinstance(facts, FullFacts)
    assert facts.parameters == sum(p.numel() for p in model.parameters())  # tied weights count once in both

    stored.mkdir()
    (stored / WEIGHTS).write_bytes(files[WEIGHTS].read_bytes())
    (stored / CONFIG).write_bytes(facts.canonical)
    assert check_full({name: stored / name for name in files}, base).canonical == facts.canonical
    assert base is not None
    assert tuned_config(base, dtype) == facts.canonical
    loaded = AutoModelForCausalLM.from_pretrained(stored).eval()
    assert loaded.dtype == model.dtype
    model = AutoModelForCausalLM.from_pretrained(saved).eval()  # .to() had rounded its rotation too
    tokens = torch.arange(12).reshape(1, 12) + 3
    with torch.no_grad():
        assert torch.equal(model(input_ids=tokens).logits, loaded(input_ids=tokens).logits)
    loaded.save_pretrained(tmp_path / "again")  # a model loaded from the registry and trained on comes back under the same config
    assert canonical_full_config(json.loads((tmp_path / "again" / CONFIG).read_text()), base) == facts.canonical


@pytest.mark.train
def test_the_defaults_are_those_of_transformers() -> None:
    import transformers

    for kind, name in KINDS.items():
        default = getattr(transformers, f"{name}Config")
        fields = default.__dataclass_fields__
        for key, setting in SETTINGS[kind].items():
            if key not in {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}:
                assert fields[key].default == setting.default, (kind, key)
        own = set(fields) - set(transformers.PreTrainedConfig.__dataclass_fields__)
        assert own <= SETTINGS[kind].keys() | {"head_dim", "num_key_value_heads", "rope_parameters", "layer_types", "use_cache"}, kind


def test_an_adapter_is_still_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="This adapter is refused") as refused:
        check_version_files({"adapter_config.json": tmp_path / "x"}, None)
    assert "adapter_model.safetensors in it" in refused.value.message
    assert AdapterFacts.config_file == "adapter_config.json"
