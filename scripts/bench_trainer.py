"""Our trainer against a bare loop, against TRL's defaults, and warm against cold; part of `make bench`.

(a) One optimizer step on the same rows, short dialogues packed to 512 tokens: ours (laying the row out, forward, backward, clipping, optimizer, learning rate) by a
    bare PyTorch + PEFT loop (the same rows as tensors with positions and labels, the model's own loss, clipping, AdamW, a scheduler). Two copies of one model, the
    steps in turn; the medians. Both losses are compared, so that both do the same work. Below 1 ours is faster.
(b) Trained tokens per second against TRL's SFTTrainer with its defaults on the same examples (batches of 8, padded, gradient checkpointing); one of our steps after
    each of its steps. Once as TRL comes (bfloat16, which many CPUs only emulate) and once in 32 bits as ours; the second is the one that is held against the goal.
(c) A job on the built-in base in a process of its own by the same job in a warm one, in turn.
The model of (a) and (b) is a Mistral with random weights, hidden size 256, 4 layers, the built-in base's tokenizer: the vocabulary is in the figures, because a large
one would flatter whoever leaves logits out. Run: python scripts/bench_trainer.py [--quick] [--profile]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
HIDDEN, LAYERS, PACKED = 256, 4, 512
GOALS = {"of_bare": 1.10, "of_trl": 1.4, "warm": 5.0}


def run(steps: int = 30, jobs: int = 3) -> dict[str, Any]:
    """Measure all three. `steps` of (a) and (b) each, `jobs` warm and cold in (c)."""
    from trainer.child import child_environment

    os.environ.update(child_environment(offline=True))  # before torch is loaded, as in a training
    from trainer.bases import resolve_base

    with tempfile.TemporaryDirectory() as folder:
        tiny = resolve_base("tiny", Path(os.environ.get("REGISTRY_TEST_BASES", folder)))
        warm = against_cold(tiny, Path(folder), jobs)
        bench = Bench(tiny, Path(folder))
        return {**bench.facts(), **bench.against_bare(steps), **bench.against_trl(steps), **warm}


class Bench:
    """The model, the examples and the recipe of (a) and (b)."""

    def __init__(self, tiny: Any, folder: Path) -> None:
        import torch
        from transformers import MistralConfig, MistralForCausalLM

        from trainer.bases import local_base
        from trainer.loading import load_tokenizer
        from trainer.recipe import make_recipe

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        self.folder, self.source = folder, folder / "model"
        tokenizer = load_tokenizer(tiny.path)
        torch.manual_seed(0)
        config = MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN * 7 // 2,  # Mistral 7B's own ratios: 14,336 of 4,096, four query heads to a key head
            num_hidden_layers=LAYERS,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            sliding_window=None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        MistralForCausalLM(config).save_pretrained(self.source)
        tokenizer.save_pretrained(self.source)
        self.base = local_base(self.source)
        settings = {"chat_template": tiny_template(tiny)[0], "chat_template_sha256": tiny_template(tiny)[1], "dropout": 0.0}
        self.recipe = make_recipe(self.base, None, {**settings, "batching": "packed", "max_length": PACKED, "batch_size": 1})
        self.tokenizer = tokenizer
        self.examples = short_examples(tokenizer, self.recipe)

    def facts(self) -> dict[str, Any]:
        """What the figures were measured on."""
        import torch

        lengths = [len(e.input_ids) for e in self.examples]
        return {
            "hidden": HIDDEN,
            "layers": LAYERS,
            "vocabulary": len(self.tokenizer),
            "examples": len(self.examples),
            "median_tokens": statistics.median(lengths),
            "most_tokens": max(lengths),
            "threads": torch.get_num_threads(),
        }

    def model(self) -> tuple[Any, Any]:
        """Our model with a fresh adapter, and its optimizer."""
        import torch

        from trainer.adapter import prepare
        from trainer.loading import load_base
        from trainer.loop import make_optimizer

        torch.manual_seed(0)
        model = prepare(load_base(self.source, self.recipe), self.recipe, self.base)
        return model, make_optimizer(model, self.recipe)

    def ours(self) -> Any:
        """A function that makes our next step and returns (seconds, loss, trained tokens)."""
        from trainer.loop import lay_out, learning_rate, set_learning_rate, train_step
        from trainer.packing import Schedule

        model, optimizer = self.model()
        schedule = Schedule(self.recipe.with_changes(epochs=1000), [len(e.input_ids) for e in self.examples], 42)
        number = 0

        def step() -> tuple[float, float, int]:
            nonlocal number
            number += 1
            began = time.perf_counter()
            due = schedule.step(number)
            rows = [lay_out([self.examples[i] for i in batch]) for batch in due.micro_batches]
            set_learning_rate(optimizer, learning_rate(self.recipe, number, schedule.steps))
            done = train_step(model, optimizer, rows, sum(row.trained for row in rows), self.recipe)
            return time.perf_counter() - began, done.loss, done.trained

        return step

    def bare(self) -> Any:
        """The same with what a person would write: stock model, PEFT, the model's own loss."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, get_scheduler

        from trainer.packing import Schedule

        recipe = self.recipe
        torch.manual_seed(0)
        stock = AutoModelForCausalLM.from_pretrained(self.source, dtype=torch.float32)
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=recipe.r, lora_alpha=recipe.alpha, lora_dropout=0.0, target_modules=list(recipe.target_modules)
        )
        model = get_peft_model(stock, lora).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0)
        schedule = Schedule(recipe.with_changes(epochs=1000), [len(e.input_ids) for e in self.examples], 42)
        scheduler = get_scheduler("cosine", optimizer, 1, schedule.steps)
        number = 0

        def step() -> tuple[float, float, int]:
            nonlocal number
            number += 1
            batch = [self.examples[i] for micro in schedule.step(number).micro_batches for i in micro]
            began = time.perf_counter()
            ids = torch.tensor([[t for e in batch for t in e.input_ids]])
            labels = torch.tensor([[t for e in batch for t in e.labels]])
            positions = torch.tensor([[n for e in batch for n in range(len(e.input_ids))]])
            loss = model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            return time.perf_counter() - began, loss.item(), sum(e.trained for e in batch)

        return step

    def against_bare(self, steps: int) -> dict[str, Any]:
        """Measure (a)."""
        ours, bare = self.ours(), self.bare()
        first = [(ours()[1], bare()[1])]  # the first steps load and allocate; their losses are those of the same untouched weights
        if abs(first[0][0] - first[0][1]) > 1e-3:
            raise SystemExit(f"the two loops do not do the same work: losses {first[0]}")
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for number in range(steps):
            turn = [("ours", ours), ("bare", bare)]
            for name, step in turn if number % 2 else reversed(turn):
                times[name].append(step()[0])
        medians = {name: statistics.median(found) for name, found in times.items()}
        return {
            "step_ms": round(1000 * medians["ours"], 1),
            "bare_step_ms": round(1000 * medians["bare"], 1),
            "of_bare": round(medians["ours"] / medians["bare"], 3),
        }

    def against_trl(self, steps: int) -> dict[str, Any]:
        """Measure (b)."""
        found: dict[str, Any] = {}
        for name, settings in {"of_trl_as_it_comes": {}, "of_trl": {"bf16": False}}.items():
            theirs, ours = self._in_turn_with_trl(steps, settings)
            found |= {name: round(ours / theirs, 2), f"{name.replace('of_', '')}_trained_tokens_s": round(theirs)}
            found["our_trained_tokens_s"] = round(ours)
        return found

    def _in_turn_with_trl(self, steps: int, settings: dict[str, Any]) -> tuple[float, float]:
        """(TRL's, our) trained tokens per second."""
        import torch
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, TrainerCallback
        from trl import SFTConfig, SFTTrainer

        recipe, ours = self.recipe, self.ours()
        ours()
        clock = {"theirs": 0.0, "ours": 0.0, "last": 0.0}
        tokens = {"theirs": 0, "ours": 0}

        class Turns(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:  # noqa: ARG002 - TrainerCallback's signature
                if state.global_step > 1:  # the first step loads and allocates
                    clock["theirs"] += time.perf_counter() - clock["last"]
                    seconds, _, trained = ours()
                    clock["ours"] += seconds
                    tokens["ours"] += trained
                else:
                    tokens["theirs"] = 0
                clock["last"] = time.perf_counter()

        class Counted(SFTTrainer):  # type: ignore[misc]
            def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
                tokens["theirs"] += int((inputs["labels"] != -100).sum())
                return super().training_step(model, inputs, *rest, **named)

        rows = {"input_ids": [list(e.input_ids) for e in self.examples], "labels": [list(e.labels) for e in self.examples]}
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=recipe.r, lora_alpha=recipe.alpha, lora_dropout=0.0, target_modules=list(recipe.target_modules)
        )
        quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "max_steps": steps + 1}
        trainer = Counted(
            model=AutoModelForCausalLM.from_pretrained(self.source, dtype=torch.float32),
            args=SFTConfig(output_dir=str(self.folder / "trl"), dataloader_pin_memory=False, **quiet, **settings),
            train_dataset=Dataset.from_dict(rows),
            processing_class=self.tokenizer,
            peft_config=lora,
            callbacks=[Turns()],
        )
        trainer.callback_handler.callbacks = [c for c in trainer.callback_handler.callbacks if type(c).__name__ != "PrinterCallback"]
        trainer.train()
        return tokens["theirs"] / clock["theirs"], tokens["ours"] / clock["ours"]

    def profile(self, steps: int = 10) -> str:
        """Where the time of our step goes, by torch's profiler."""
        import torch

        ours = self.ours()
        ours()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(steps):
                ours()
        return str(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


def tiny_template(tiny: Any) -> tuple[str, str]:
    """The chat template that the built-in base is trained with."""
    from trainer.recipe import default_recipe

    recipe = default_recipe(tiny, None)
    return recipe.chat_template, recipe.chat_template_sha256


def short_examples(tokenizer: Any, recipe: Any) -> list[Any]:
    """The example advisors' real pairs, each answer cut to its first one, two or three sentences in turn: dialogues of different lengths, as people's are."""
    from registry.manifest import digest
    from trainer.data import encode_all, recipe_template
    from trainer.examples import Conversation

    found = []
    for number, (question, answer) in enumerate(example_pairs()):
        said = " ".join(answer.replace("\n", " ").split(". ")[: 1 + number % 3])
        turns = ({"role": "user", "content": question[:160]}, {"role": "assistant", "content": said})
        found.append(Conversation(digest([question, answer]), f"pair {number}", turns))
    return list(encode_all(found, tokenizer, recipe_template(recipe, tokenizer), recipe.max_length))


def example_pairs() -> list[tuple[str, str]]:
    """Single-turn question and answer pairs of the example advisors."""
    pairs = []
    for path in sorted((REPO / "examples").glob("*/pairs.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            turns = [m["content"] for m in json.loads(line)["messages"] if m["role"] != "system"]
            if len(turns) == 2:
                pairs.append((turns[0], turns[1]))
    return pairs


def against_cold(tiny: Any, folder: Path, jobs: int, steps: int = 5) -> dict[str, Any]:
    """(c): the same job cold and warm in turn; the warm process's own first job is no part of it. Raises SystemExit where their files differ."""
    from jobs.benchmark import write_dataset
    from trainer.process import WarmTrainer, run_training
    from trainer.recipe import make_recipe
    from trainer.spec import TrainSpec

    pairs = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in example_pairs()[:12]]
    data = write_dataset(folder / "pairs", pairs, len(pairs))
    recipe = make_recipe(tiny, None, {"max_steps": steps})
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    files = set()
    with WarmTrainer() as warm:
        warm.train(TrainSpec(recipe, tiny, 42, data, folder / "first"), lambda _: None)
        for number in range(jobs):
            for name, trains in (("cold", run_training), ("warm", warm.train)):
                spec = TrainSpec(recipe, tiny, 42, data, folder / f"{name}{number}")
                began = time.perf_counter()
                files.add(trains(spec, lambda _: None).files)
                times[name].append(time.perf_counter() - began)
    if len(files) != 1:
        raise SystemExit("cold and warm jobs made different files")
    cold, hot = statistics.median(times["cold"]), statistics.median(times["warm"])
    return {"cold_job_s": round(cold, 2), "warm_job_s": round(hot, 2), "warm": round(cold / hot, 1)}


def verdicts(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, figure, goal and verdict) of each."""
    rows = [
        (
            "training step against a bare PyTorch + PEFT loop",
            f"{found['of_bare']}x the time",
            f"at most {GOALS['of_bare']}x",
            found["of_bare"] <= GOALS["of_bare"],
        ),
        (
            "trained tokens/s against TRL's defaults",
            f"{found['of_trl']}x in 32 bits, {found['of_trl_as_it_comes']}x as it comes",
            f"at least {GOALS['of_trl']}x",
            found["of_trl"] >= GOALS["of_trl"],
        ),
        (
            "warm job against cold job on the tiny base",
            f"{found['warm']}x faster",
            f"at least {GOALS['warm']}x",
            found["warm"] >= GOALS["warm"],
        ),
    ]
    return [(what, figure, f"{goal}: {'reached' if good else 'MISSED'}") for what, figure, goal, good in rows]


def print_verdicts(rows: Sequence[tuple[str, str, str]]) -> None:
    """One line each, as `make bench` prints them."""
    for what, value, target in rows:
        print(f"{what}: {value}   (target {target})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and jobs: rougher")
    parser.add_argument("--profile", action="store_true", help="print where the time of our step goes, and stop")
    asked = parser.parse_args()
    if asked.profile:
        from trainer.bases import resolve_base

        with tempfile.TemporaryDirectory() as folder:
            tiny = resolve_base("tiny", Path(os.environ.get("REGISTRY_TEST_BASES", folder)))
            print(Bench(tiny, Path(folder)).profile())
        return
    found = run(steps=10, jobs=1) if asked.quick else run()
    print(json.dumps(found, indent=1))
    print_verdicts(verdicts(found))


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    main()
