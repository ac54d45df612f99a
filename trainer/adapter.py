"""The trained part of a model: put onto the base, read off it, taken away again. Loads torch and PEFT.

Rules: every target of the recipe must be found, because PEFT is content when one of the names matches and a part of the attention would silently stay untrained;
the base's own weights never change under an adapter; the bytes of a file depend on the values alone.
"""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save

from registry.errors import Invalid
from trainer.bases import BaseSpec
from trainer.recipe import Recipe
from trainer.sharded import Alone

METADATA = {"format": "pt"}  # what transformers and PEFT write, and expect


def prepare(model: Any, recipe: Recipe, base: BaseSpec) -> Any:
    """Make the model trainable: with a fresh adapter, or in every weight. The random numbers were seeded just before. Raises Invalid for unknown targets."""
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.activation_checkpointing_disable()
    if recipe.method == "full":
        model.requires_grad_(True)
        return model.train()
    model.requires_grad_(False)
    try:
        wrapped: Any = get_peft_model(model, _lora(recipe))
    except ValueError as error:
        if "target modules" in str(error).lower() or "target_modules" in str(error):
            raise _no_modules(base, recipe.target_modules, "none of them") from error
        raise
    _check_targets(wrapped, recipe, base)
    if recipe.quantization == "nf4":
        # The QLoRA paper keeps the adapter in bfloat16 (arXiv 2305.14314, section 3). Norms and head stay as loaded: taking them to 32 bits, as PEFT's
        # prepare_model_for_kbit_training does, costs half a gigabyte on a 7B and was no part of the paper.
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    return wrapped.train()


def _lora(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.r or 0,
        lora_alpha=recipe.alpha or 0,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.target_modules),
        use_rslora=recipe.rslora,
        bias="none",
        init_lora_weights=True,
    )


def _check_targets(model: Any, recipe: Recipe, base: BaseSpec) -> None:
    found = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if ".lora_A." in name}
    missing = sorted(set(recipe.target_modules) - found)
    if missing:
        raise _no_modules(base, missing, f"only {', '.join(sorted(found))}")


def _no_modules(base: BaseSpec, missing: Any, found: str) -> Invalid:
    return Invalid(
        f"The base {base.repo} has no modules named {', '.join(missing)}; {found} would be trained.",
        hint='Leave target_modules out of the recipe and say "targets": "attention" or "all-linear", which know each architecture\'s names.',
    )


def detach(model: Any, recipe: Recipe) -> Any:
    """The base as it was loaded, without the adapter; None where its own weights were trained."""
    if recipe.method == "full":
        return None
    base = model.unload()
    if hasattr(base, "peft_config"):  # PEFT leaves its mark on the base, and would warn at the next adapter
        del base.peft_config
    base.activation_checkpointing_disable()
    return base


def parameters(model: Any, recipe: Recipe) -> dict[str, int]:
    """Trainable and total parameters. In 4 bits two weights share a byte, so PEFT's own count is used."""
    if recipe.method == "full":
        count = sum(p.numel() for p in model.parameters())
        return {"trainable_parameters": count, "total_parameters": count}
    trainable, total = model.get_nb_trainable_parameters()
    return {"trainable_parameters": int(trainable), "total_parameters": int(total)}


def trained_tensors(model: Any, recipe: Recipe, team: Alone) -> dict[str, torch.Tensor]:
    """What is saved of a training, by name and sorted: the adapter's pairs, or every weight once (tied ones share theirs), in the recipe's dtype."""
    if recipe.method != "full":
        pairs = sorted(get_peft_model_state_dict(model).items())
        return {name: team.whole(tensor.detach()).cpu().contiguous() for name, tensor in pairs}
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    dtype = getattr(torch, recipe.dtype)
    return {
        name: team.whole(tensor.detach()).to(device="cpu", dtype=dtype).contiguous()
        for name, tensor in sorted(model.state_dict().items())
        if name not in tied
    }


def as_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    """The safetensors file. safetensors sorts the keys itself, so the bytes depend on the values alone."""
    return save(tensors, metadata=METADATA)


def peft_config(model: Any) -> dict[str, Any]:
    """PEFT's own config of the adapter."""
    config: dict[str, Any] = model.peft_config["default"].to_dict()
    return config


def dtype_of(model: Any) -> str:
    """The dtype the trained weights have while they are trained: bfloat16 for an adapter on a quantised base, else float32."""
    return next(str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad)
