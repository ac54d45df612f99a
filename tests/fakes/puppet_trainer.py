"""Stands where a warm training process stands: writes an adapter of the right shape that depends on the spec alone, in as many steps as the recipe says.

It keeps the trainer's promises (the same spec gives the same bytes, a stop raises Paused, events come step by step) and trains nothing: the tests of the job
engine start hundreds of trainings, and one cold start of the real one costs ten seconds. The real one is behind scripts/kill_worker.py and the stories.
"""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from registry.adapter_files import base_card_from_config
from registry.adapter_files.cards import BLOCK
from registry.errors import Paused, RegistryError
from trainer.output import prepare_folder, write_adapter, write_result
from trainer.spec import TrainedAdapter, TrainSpec

STEPS = 4


class PuppetTrainer:
    """`pace` seconds pass between two steps; `fails` maps an advisor's dataset digest to the error its training ends with."""

    def __init__(self, pace: float = 0.0) -> None:
        self.pace = pace
        self.trained: list[str] = []  # dataset digests, in the order of the trainings that were begun
        self.finished = 0
        self.fails: dict[str, RegistryError] = {}
        self.better = True  # whether the held-out loss falls
        self.at_step = threading.Event()  # set when a training is in the middle
        self._stop = threading.Event()
        self._busy = threading.Lock()

    def train(self, spec: TrainSpec, on_event: Any) -> TrainedAdapter:
        assert self._busy.acquire(blocking=False), "two trainings at once"
        try:
            self._stop.clear()
            return self._train(spec, on_event)
        finally:
            self._busy.release()

    def _train(self, spec: TrainSpec, on_event: Any) -> TrainedAdapter:
        dataset = json.loads((spec.dataset_dir / "manifest.json").read_text())["sha256"]
        self.trained.append(dataset)
        if dataset in self.fails:
            raise self.fails[dataset]
        for step in range(1, STEPS + 1):
            on_event({"event": "step", "step": step, "of": STEPS, "loss": 1.0 / step})
            self.at_step.set()
            if self._stop.wait(self.pace):
                raise Paused(f"stopped at step {step} of {STEPS}; the same command goes on from there")
        made = _adapter(spec, dataset, self.better)
        self.finished += 1
        return made

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()


def _adapter(spec: TrainSpec, dataset: str, better: bool) -> TrainedAdapter:
    folder = prepare_folder(spec.out_dir)
    recipe, base = spec.recipe, spec.base.without_path()
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": recipe.r, "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout, "target_modules": list(recipe.target_modules),
    }  # fmt: skip
    files = write_adapter(folder, _weights(spec, dataset), config, base)
    heldout = _heldout(spec.dataset_dir / "heldout.jsonl", better)
    metrics = {"loss_curve": [{"step": STEPS, "epoch": 1.0, "loss": 1.0, "learning_rate": 1e-4}], "steps": STEPS, "heldout": heldout}
    adapter = TrainedAdapter(folder, files, base, recipe, spec.seed, metrics, {"train": 0.1}, {"puppet": True})
    write_result(spec.out_dir, adapter)
    return adapter


def _weights(spec: TrainSpec, dataset: str) -> bytes:
    card = base_card_from_config(spec.base.config or {}, spec.base.repo, spec.base.revision)
    seed = int.from_bytes(hashlib.sha256(f"{dataset} {spec.recipe.digest} {spec.seed}".encode()).digest()[:8], "big")
    numbers = np.random.default_rng(seed)
    return _safetensors(_pairs(card, spec.recipe, numbers))


def _pairs(card: Any, recipe: Any, numbers: Any) -> dict[str, Any]:
    tensors = {}
    for layer in range(card.layers):
        for name in recipe.target_modules:
            inputs, outputs = card.modules[name]
            stem = f"base_model.model.model.layers.{layer}.{BLOCK[name]}.{name}"
            tensors[f"{stem}.lora_A.weight"] = numbers.normal(0, 0.02, (recipe.r, inputs)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = numbers.normal(0, 0.02, (outputs, recipe.r)).astype(np.float32)
    return tensors


def _safetensors(tensors: dict[str, Any]) -> bytes:
    from safetensors.numpy import save

    return save(tensors)


def _heldout(path: Path, better: bool) -> dict[str, Any]:
    rows = [json.loads(line)["sha256"] for line in path.read_text().splitlines()]
    gain = 0.5 if better else -0.5
    base = [{"sha256": sha, "loss": 2.0 + 0.01 * (int(sha[-2:], 16) % 7), "tokens": 10} for sha in rows]
    adapter = [{**row, "loss": row["loss"] - gain - 0.001 * (int(row["sha256"][-4:-2], 16) % 5)} for row in base]
    return {"adapter": adapter, "base": base}
