"""Measures a model and its base: loss on the held-out examples, and log-probabilities of three fixed answers.

Rules: one example at a time, so that a figure does not depend on its neighbours in a batch; the mean is per token, in nats; the base is the same model with
the adapter switched off or, where every weight is trained, the model before its training. torch is loaded inside the functions only.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from registry.errors import TrainingFailed
from trainer.data import IGNORED, Encoded, encode
from trainer.examples import Conversation

# Fixed for ever: the canary of an old version must stay comparable. A serving replica that gives other figures does not run this adapter on this base.
CANARY = (
    ("How do I begin a hard conversation?", "Say what you need in one plain sentence, and then listen."),
    ("I have too much to do this week.", "Choose the one thing that matters most today, and let the rest wait."),
    ("What should I ask before I decide?", "Ask what would have to be true for each choice to be the right one."),
)
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """Summed negative log-likelihoods (nats) of one model: of each held-out example, and of each canary answer."""

    heldout: tuple[float, ...]
    canary: tuple[float, ...]


def canary_examples(tokenizer: Any, template: str) -> tuple[Encoded, ...]:
    """The three fixed answers in tokens."""
    turns = [({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}) for prompt, answer in CANARY]
    return tuple(encode(Conversation("sha256:" + "0" * 64, "canary", pair), tokenizer, template) for pair in turns)


def measure_one(
    model: Any, examples: Sequence[Encoded], fixed: Sequence[Encoded], on_step: OnStep, *, with_adapter: bool = True
) -> Measured:
    """Measure the model as it is, or with its adapter switched off. Raises TrainingFailed when a figure is not finite."""
    figures = []
    with nullcontext() if with_adapter else model.disable_adapter():
        for number, example in enumerate(examples, start=1):
            figures.append(_finite(model, example))
            on_step(number, len(examples))
        return Measured(tuple(figures), tuple(_finite(model, example) for example in fixed))


def heldout_rows(examples: Sequence[Encoded], ours: Measured, base: Measured) -> dict[str, list[dict[str, Any]]]:
    """{"adapter": [...], "base": [...]}: per example its sha256, mean negative log-likelihood per trained token (nats), and that number of tokens."""
    return {
        name: [
            {"sha256": example.sha256, "loss": total / example.trained, "tokens": example.trained}
            for example, total in zip(examples, measured.heldout, strict=True)
        ]
        for name, measured in {"adapter": ours, "base": base}.items()
    }


def canary_rows(fixed: Sequence[Encoded], ours: Measured, base: Measured) -> list[dict[str, Any]]:
    """Log-probability (nats, summed over the answer and its end token) of the three fixed answers, trained and before."""
    return [
        {"prompt": prompt, "answer": answer, "tokens": example.trained, "logprob": -after, "base_logprob": -before}
        for (prompt, answer), example, after, before in zip(CANARY, fixed, ours.canary, base.canary, strict=True)
    ]


def canary(model: Any, tokenizer: Any, template: str) -> list[dict[str, Any]]:
    """`canary_rows` of an adapter on its base, measured now."""
    fixed = canary_examples(tokenizer, template)

    def quiet(_number: int, _of: int) -> None: ...

    return canary_rows(fixed, measure_one(model, (), fixed, quiet), measure_one(model, (), fixed, quiet, with_adapter=False))


def _finite(model: Any, example: Encoded) -> float:
    found = negative_log_likelihood(model, example)
    if not math.isfinite(found):
        raise TrainingFailed(
            f"A held-out example ({example.sha256[:19]}...) has a loss that is no number: {found}.",
            hint="Lower learning_rate; if the base's figure is no number either, the base is damaged.",
        )
    return found


def negative_log_likelihood(model: Any, example: Encoded) -> float:
    """Nats, summed over the trained tokens of one example."""
    import torch

    device = next(model.parameters()).device
    following = torch.tensor(example.labels[1:], device=device)  # the token at i is predicted from those before i
    at = (following != IGNORED).nonzero()[:, 0]
    with torch.no_grad():  # not inference_mode, whose tensors FSDP's hooks cannot gather into; the figures are the same
        logits = model(input_ids=torch.tensor([example.input_ids], device=device), use_cache=False, logits_to_keep=at).logits[0]
        return float(torch.nn.functional.cross_entropy(logits.float(), following[at], reduction="sum"))
