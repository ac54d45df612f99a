"""Measures an adapter and its base: loss on the held-out examples, and log-probabilities of three fixed answers.

Rules: one example at a time, so that a figure does not depend on its neighbours in a batch; the mean is per token, in nats; the base is the same model with
the adapter switched off. torch is loaded inside the functions only.
"""

import math
from collections.abc import Callable, Sequence
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


def measure(model: Any, examples: Sequence[Encoded], on_step: Callable[[int, int], None]) -> dict[str, list[dict[str, Any]]]:
    """{"adapter": [...], "base": [...]}: per example its sha256, mean negative log-likelihood per trained token (nats), and that number of tokens.

    Raises TrainingFailed when the adapter's figure is not finite.
    """
    rows: dict[str, list[dict[str, Any]]] = {"adapter": [], "base": []}
    for number, example in enumerate(examples, start=1):
        for name, total in zip(("adapter", "base"), _both(model, example), strict=True):
            rows[name].append({"sha256": example.sha256, "loss": total / example.trained, "tokens": example.trained})
        on_step(number, len(examples))
    return rows


def canary(model: Any, tokenizer: Any, template: str) -> list[dict[str, Any]]:
    """Log-probability (nats, summed over the answer and its end token) of the three fixed answers, with the adapter and without."""
    rows = []
    for prompt, answer in CANARY:
        turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
        example = encode(Conversation("sha256:" + "0" * 64, "canary", turns), tokenizer, template)
        with_adapter, without = _both(model, example)
        rows.append({"prompt": prompt, "answer": answer, "tokens": example.trained, "logprob": -with_adapter, "base_logprob": -without})
    return rows


def _both(model: Any, example: Encoded) -> tuple[float, float]:
    """Summed negative log-likelihood with the adapter and with it switched off."""
    ours = _negative_log_likelihood(model, example)
    with model.disable_adapter():
        theirs = _negative_log_likelihood(model, example)
    if not (math.isfinite(ours) and math.isfinite(theirs)):
        raise TrainingFailed(
            f"A held-out example ({example.sha256[:19]}...) has a loss that is no number: {ours} with the adapter, {theirs} without.",
            hint="Lower learning_rate; if the base's figure is no number either, the base is damaged.",
        )
    return ours, theirs


def _negative_log_likelihood(model: Any, example: Encoded) -> float:
    import torch

    device = next(model.parameters()).device
    ids = torch.tensor([example.input_ids], device=device)
    labels = torch.tensor(example.labels[1:], device=device)  # the token at i is predicted from those before i
    with torch.inference_mode():
        hidden = model(input_ids=ids, use_cache=False).logits[0, :-1]
        chosen = labels != IGNORED
        # Only the trained positions in 32 bits: all of them at once would be tokens x vocabulary x 4 bytes.
        return float(torch.nn.functional.cross_entropy(hidden[chosen].float(), labels[chosen], reduction="sum"))
