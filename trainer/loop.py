"""One optimizer step, and what it needs: examples laid end to end, the loss on the trained tokens alone, the optimizer, the learning rate.

Rules: a micro-batch is one row of examples laid end to end whose positions start again with each of them; nothing is padded, and no example sees another; the
loss of a step is the sum over its trained tokens divided by their number, over all its micro-batches; logits are computed where a trained token is
predicted and nowhere else. It knows no files, no clock and no recipe's history: `train_step` can be timed by itself.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any

import torch

from trainer.data import IGNORED, Encoded
from trainer.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """Examples laid end to end. `ids` and `positions`: (1, tokens); `bounds`: where each example begins, and the end; `at`: the places whose next token is
    trained, and `targets`: those tokens.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    bounds: tuple[int, ...]
    at: torch.Tensor
    targets: torch.Tensor

    @property
    def trained(self) -> int:
        """How many tokens the loss is computed on."""
        return self.targets.numel()

    def untrained(self) -> "Row":
        """The same tokens without a loss."""
        return replace(self, at=self.at[:0], targets=self.targets[:0])


@dataclass(frozen=True)
class Done:
    """What a step came to: mean loss per trained token (nats), the norm of the gradient before it was clipped, and how many tokens were trained."""

    loss: float
    norm: float
    trained: float


def lay_out(examples: Sequence[Encoded], device: torch.device | str = "cpu") -> Row:
    """The row of some examples. The first token of an example is predicted by nothing, so it is never trained."""
    ids = list(chain.from_iterable(e.input_ids for e in examples))
    following = list(chain.from_iterable((*e.labels[1:], IGNORED) for e in examples))
    at = [place for place, label in enumerate(following) if label != IGNORED]
    positions = list(chain.from_iterable(range(len(e.input_ids)) for e in examples))
    return Row(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        tuple(accumulate((len(e.input_ids) for e in examples), initial=0)),
        torch.tensor(at, dtype=torch.long, device=device),
        torch.tensor([following[place] for place in at], dtype=torch.long, device=device),
    )


def attention_options(row: Row, kind: str) -> dict[str, Any]:
    """How the model is told where examples begin: by their bounds. Eager attention builds its mask from the positions, which start again."""
    if kind == "sdpa":
        return {"segments": row.bounds}
    if kind == "eager":
        return {}
    bounds = torch.tensor(row.bounds, dtype=torch.int32, device=row.ids.device)
    longest = max(b - a for a, b in zip(row.bounds, row.bounds[1:], strict=False))
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def loss_sum(model: Any, row: Row, recipe: Recipe) -> torch.Tensor:
    """Negative log-likelihood (nats) of the row's trained tokens, summed. Only they are taken to 32 bits and to the size of the vocabulary."""
    mixed = torch.autocast(recipe.device, dtype=torch.bfloat16) if recipe.dtype == "bfloat16" else nullcontext()
    with mixed:
        out = model(
            input_ids=row.ids,
            position_ids=row.positions,
            use_cache=False,
            logits_to_keep=row.at,
            **attention_options(row, recipe.attention),
        )
    return torch.nn.functional.cross_entropy(out.logits[0].float(), row.targets, reduction="sum")


def train_step(model: Any, optimizer: torch.optim.Optimizer, rows: Sequence[Row], trained: float, recipe: Recipe) -> Done:
    """Forward and backward of every row, then one step of the optimizer. `trained` is the number of trained tokens of the whole step.

    Of several processes, whose gradients are averaged, each gives its rows and the whole step's trained tokens divided by the number of processes.

    A loss or gradient that is no finite number leaves the weights as they were; the caller looks at `Done`.
    """
    total = torch.zeros((), device=rows[0].ids.device)
    for row in rows:
        loss = loss_sum(model, row, recipe) / trained
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm).detach()
    done = Done(float(total), float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm), trained)
    if math.isfinite(done.loss) and math.isfinite(done.norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return done


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 1) of `steps`: a straight warm-up, then the recipe's curve. No step has none: the first gets a part, and so does
    the last.
    """
    warmup = math.floor(recipe.warmup * steps)
    if step <= warmup:
        return recipe.learning_rate * step / (warmup + 1)
    share = (step - 1 - warmup) / max(1, steps - warmup)
    falls = {"constant": 1.0, "linear": 1 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}
    return recipe.learning_rate * falls[recipe.scheduler]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its rate; with LoRA+ the B matrices' is a multiple."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["ratio"]


def groups_of(model: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """The trained parameters by what sets them apart: weight decay (matrices only, as transformers does) and LoRA+'s faster B."""
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            ratio = recipe.lora_plus_ratio if recipe.lora_plus_ratio and ".lora_B." in name else 1.0
            decay = recipe.weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((ratio, decay), []).append(parameter)
    return [{"params": parameters, "ratio": ratio, "weight_decay": decay} for (ratio, decay), parameters in groups.items()]


def make_optimizer(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's AdamW over the model's trained parameters; every setting is given."""
    settings: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "betas": (recipe.adam_beta1, recipe.adam_beta2),
        "eps": recipe.adam_epsilon,
        "weight_decay": recipe.weight_decay,
    }
    groups = groups_of(model, recipe)
    if recipe.optim in {"adamw_8bit", "paged_adamw_8bit"}:
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

        kind = AdamW8bit if recipe.optim == "adamw_8bit" else PagedAdamW8bit
        optimizer: torch.optim.Optimizer = kind(groups, **settings)
        return optimizer
    return torch.optim.AdamW(groups, fused=recipe.optim == "adamw_torch_fused", **settings)
