"""Makes the built-in base: `python -m trainer.tiny.build FOLDER`. Loads torch; run it through trainer.tiny.builtin.

A real MistralForCausalLM with grouped-query attention, started from a fixed seed and pretrained for about half a minute on the packaged text, because a purely
random one cannot tell good data from shuffled (measured). The same machine and libraries make the same bytes: fixed seed and threads, deterministic
algorithms, batches drawn by Python's own generator. It is built in a temporary folder beside the target and renamed, so a half-made one is never seen.
"""

import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from trainer.bases import BASE_FILE, file_digest, revision_of
from trainer.chat import MISTRAL, packaged_template
from trainer.tiny.builtin import NOTE, REPO, corpus, tokenizer_json
from trainer.tiny.design import DESIGN

UNK, BOS, EOS, INST, END_INST, PAD = "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"


def load_tokenizer() -> PreTrainedTokenizerFast:
    """The packaged tokenizer with its special tokens and the Mistral v0.3 chat template."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(tokenizer_json()),
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[INST, END_INST],
        model_max_length=DESIGN["context"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = packaged_template(MISTRAL)
    return tokenizer


def model_config(tokenizer: PreTrainedTokenizerFast) -> MistralConfig:
    """The architecture: Mistral with tied embeddings and no sliding window."""
    return MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=DESIGN["hidden_size"],
        intermediate_size=DESIGN["intermediate_size"],
        num_hidden_layers=DESIGN["layers"],
        num_attention_heads=DESIGN["heads"],
        num_key_value_heads=DESIGN["kv_heads"],
        head_dim=DESIGN["hidden_size"] // DESIGN["heads"],
        max_position_embeddings=DESIGN["context"],
        sliding_window=None,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def documents(text: str, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """The packaged text as token lists: a paragraph each, or a dialogue ('Q: ' and 'A: ' lines) in the chat template."""
    out: list[list[int]] = []
    for block in text.strip().split("\n\n"):
        if block.startswith("Q: "):
            roles = {"Q": "user", "A": "assistant"}
            turns = [{"role": roles[line[0]], "content": line[3:]} for line in block.splitlines()]
            rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
        else:
            rendered = f"{BOS} {block}{EOS}"
        out.append(tokenizer.encode(rendered, add_special_tokens=False))
    return out


def _stream(docs: list[list[int]], rng: random.Random) -> Iterator[int]:
    """All documents end to end, for ever, in a new order each time."""
    while True:
        yield from itertools.chain.from_iterable(rng.sample(docs, len(docs)))


def _rate(step: int) -> float:
    """Share of the learning rate at a step: linear warm-up, flat, then a linear decay over the last part (WSD, arXiv 2404.06395)."""
    left = (DESIGN["steps"] - step) / DESIGN["steps"]
    return float(min(1.0, (step + 1) / DESIGN["warmup_steps"], left / DESIGN["decay_share"]))


def pretrain(model: MistralForCausalLM, docs: list[list[int]]) -> float:
    """Train all weights on the stream of documents; returns the last step's loss (nats per token)."""
    rng = random.Random(DESIGN["seed"])  # noqa: S311 - order of training text, no secret
    stream = _stream(docs, rng)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": DESIGN["weight_decay"]},
        {"params": gains, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=DESIGN["learning_rate"], betas=(0.9, DESIGN["beta2"]))
    model.train()
    loss = torch.tensor(float("nan"))
    for step in range(DESIGN["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = DESIGN["learning_rate"] * _rate(step)
        rows = [list(itertools.islice(stream, DESIGN["sequence"])) for _ in range(DESIGN["batch"])]
        batch = torch.tensor(rows)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), DESIGN["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def build(target: Path) -> dict[str, Any]:
    """Build the base into `target` and return what base.json says. Leaves an existing complete folder alone."""
    started = time.monotonic()
    torch.set_num_threads(DESIGN["threads"])
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory guards against reading it unwritten; the model never does, and it costs a fifth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set up at run time
    torch.manual_seed(DESIGN["seed"])
    tokenizer = load_tokenizer()
    model = MistralForCausalLM(model_config(tokenizer))
    loss = pretrain(model, documents(corpus(), tokenizer))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        facts = _describe(temporary, model, loss, time.monotonic() - started)
        _publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def _describe(folder: Path, model: MistralForCausalLM, loss: float, seconds: float) -> dict[str, Any]:
    """Write base.json, last of all: its existence means that the folder is complete."""
    weights = file_digest(folder / "model.safetensors")
    facts = {
        "format": "base/1",
        "kind": "builtin",
        "repo": REPO,
        "revision": revision_of(weights),
        "weights_sha256": weights,
        "note": NOTE,
        "parameters": sum(p.numel() for p in model.parameters()),
        "pretraining": {"final_loss": round(loss, 4), "seconds": round(seconds, 1), "design": DESIGN},
        "packages": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, which a serving process under another user cannot read
    (folder / BASE_FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    folder.chmod(0o755)
    return facts


def _publish(temporary: Path, target: Path) -> None:
    """Rename into place; a target that another process finished meanwhile stays, one that is not complete goes."""
    if (target / BASE_FILE).is_file():
        return
    if target.exists():
        shutil.rmtree(target)
    try:
        os.rename(temporary, target)  # noqa: PTH104 - Path.rename hides that an existing non-empty folder makes it fail, which is wanted here
    except OSError:
        if not (target / BASE_FILE).is_file():
            raise


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1]))))
