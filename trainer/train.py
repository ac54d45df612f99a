"""Trains one adapter, or one full model, in this process. Loads torch; `trainer.process` runs it in a process of its own.

Rules: data is refused before the base is loaded; the seed is set after the base is loaded and right before the adapter's starting values are drawn, so a warm
process draws the same; a loss that is no number ends the run without a result; the state that is saved on the way holds all that decides the rest; result.json
comes last. What one step does stands in trainer.loop, the order of the data in trainer.packing.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import set_seed

from registry.errors import Invalid, Paused, TrainingFailed
from registry.manifest import FileEntry
from trainer import adapter
from trainer.bases import file_digest
from trainer.data import Encoded, encode_all, recipe_template
from trainer.environment import capture
from trainer.examples import read_dataset
from trainer.failures import is_disk_full
from trainer.heldout import Measured, canary_examples, canary_rows, heldout_rows, measure_one
from trainer.loading import Bases, Borrowed, fetch, load_tokenizer, quantization
from trainer.loop import Done, Row, lay_out, learning_rate, make_optimizer, set_learning_rate, train_step
from trainer.memory import peak_memory, reset_peak_memory
from trainer.output import prepare_folder, remove_others, write_adapter, write_full, write_result, write_whole, write_with
from trainer.packing import Schedule, Step, kept_steps
from trainer.recipe import Recipe
from trainer.sharded import team
from trainer.spec import CHECKPOINTS_FOLDER, Checkpoint, TrainedAdapter, TrainSpec
from trainer.state import Clock, State, Stop

Progress = Callable[[Mapping[str, Any]], None]
ALL_THREADS = torch.get_num_threads()  # what the machine offers, before a recipe says otherwise
FINAL_STATE_AFTER = 30.0  # seconds of steps that are worth a state before the measuring begins


class Phases:
    """Announces each phase and adds up its seconds; `current` is the one an error is blamed on."""

    def __init__(self, progress: Progress) -> None:
        """Start with nothing timed."""
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.current = "start"

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        self.current = name
        self.progress({"event": "phase", "name": name})
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)


@dataclass(frozen=True)
class Prepared:
    """The data of a training, in tokens, and what turned it into them."""

    source: Path
    dataset_sha256: str
    tokenizer: Any
    template: str
    train: tuple[Encoded, ...]
    heldout: tuple[Encoded, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest example that is trained."""
        return max(len(e.input_ids) for e in self.train)


def train(
    spec: TrainSpec, progress: Progress, phases: Phases | None = None, bases: Bases | None = None, stop: Stop | None = None
) -> TrainedAdapter:
    """Train what the spec says, write files and result.json to its out_dir, and return them.

    `bases` holds the base for the next training of a warm process. Raises RegistryError for everything that is known to go wrong, Paused where `stop` asked or
    the drive's time came; other exceptions are made sentences by trainer.failures. Without a return there is no result.json.
    """
    phase = phases or Phases(progress)
    recipe = spec.recipe
    folder = prepare_folder(spec.out_dir)
    configure(recipe)
    with phase("data_preparation"):
        data = _prepare(spec)
    if not data.heldout:
        progress(
            {"event": "warning", "message": "Nothing is held out, so this training is not measured; import the data with a held-out share."}
        )
    with ExitStack() as borrowed:
        with phase("model_load"):
            _require_fit(spec, data)
            base = borrowed.enter_context((bases if bases is not None else Bases()).borrowed(spec.base, recipe, data.source))
        return Run(spec, data, base, progress, phase, stop or Stop()).all(folder)


def _prepare(spec: TrainSpec) -> Prepared:
    recipe = spec.recipe
    conversations = read_dataset(spec.dataset_dir)
    source = fetch(spec.base, spec.out_dir)
    tokenizer = load_tokenizer(source)
    template = recipe_template(recipe, tokenizer)
    measured = conversations.heldout[: recipe.heldout_max_examples]
    return Prepared(
        source,
        conversations.dataset_sha256,
        tokenizer,
        template,
        tuple(encode_all(conversations.train, tokenizer, template, recipe.max_length)),
        tuple(encode_all(measured, tokenizer, template, recipe.max_length)),
    )


def _require_fit(spec: TrainSpec, data: Prepared) -> None:
    """Refuse what the card cannot hold before anything is loaded onto it."""
    if spec.recipe.device == "cuda":
        from trainer.preflight import detect_device, require_fit

        require_fit(spec.recipe, spec.base, detect_device(), data.longest, max(e.trained for e in data.train))


def configure(recipe: Recipe) -> None:
    """Threads and deterministic algorithms for the whole process. Raises Invalid when the recipe wants a GPU and torch sees none."""
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise Invalid(
            "The recipe trains on a GPU, but torch sees none here.",
            hint="Install a CUDA build of torch, or train with a recipe for the CPU (CUDA_VISIBLE_DEVICES= hides the card).",
        )
    torch.set_num_threads(recipe.threads or ALL_THREADS)
    # On a GPU some kernels have no deterministic form; they warn there instead of ending the run, and the run is 'statistical' anyway.
    torch.use_deterministic_algorithms(mode=True, warn_only=recipe.device == "cuda")
    # Costs a fifth of the time and guards against reading fresh memory, which the models do not do. (The attribute is set up at run time.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Run:
    """One training from a loaded base to its result."""

    def __init__(self, spec: TrainSpec, data: Prepared, base: Borrowed, progress: Progress, phase: Phases, stop: Stop) -> None:
        """Nothing is changed yet."""
        self.spec, self.recipe, self.data, self.base = spec, spec.recipe, data, base
        self.progress, self.phase, self.stop = progress, phase, stop
        self.fixed = canary_examples(data.tokenizer, data.template)
        self.schedule = Schedule(spec.recipe, [len(e.input_ids) for e in data.train], spec.seed)
        self.kept = kept_steps(spec.recipe, self.schedule.steps)
        self.team = team(spec.recipe)
        self.curve: list[dict[str, float]] = []
        self.checkpoints: list[Checkpoint] = []
        self.trained_tokens = 0
        self.seconds = 0.0
        self.told_of_disk = False

    def all(self, folder: Path) -> TrainedAdapter:
        """Prepare, train, save, measure, write the result, and give the base back."""
        full = self.recipe.method == "full"
        reset_peak_memory(self.recipe)
        before = self._measure_before() if full else None
        with self.phase("adapter_preparation"):
            set_seed(self.spec.seed)
            model = adapter.prepare(self.base.model, self.recipe, self.spec.base)
            counted = adapter.parameters(model, self.recipe)
            model, optimizer = self.team.prepare(model, make_optimizer(model, self.recipe))
            state = State(self.spec, self.data.train, self.base.weights.sha256, self.team)
        with self.phase("training"), self.stop:
            self._train(model, optimizer, state)
        dtype, settings = adapter.dtype_of(model), self._optimizer_settings(optimizer)
        del optimizer
        with self.phase("save"):
            files = self._write(folder, model)
        with self.phase("heldout_evaluation"):
            model.eval()
            ours, theirs = self._measure(model, before)
        metrics = {**self._figures(), **counted, "adapter_dtype": dtype, **self._measurements(ours, theirs)}
        result = TrainedAdapter(
            folder,
            files,
            self.spec.base.without_path(),
            self.recipe,
            self.spec.seed,
            metrics,
            self.phase.seconds,
            capture(self.recipe) | self._record(settings),
            tuple(self.checkpoints),
        )
        if self.team.rank == 0:
            write_result(self.spec.out_dir, result)
            state.remove()
        self._give_back(model)
        return result

    def _give_back(self, model: Any) -> None:
        base = adapter.detach(model, self.recipe)
        if base is not None:
            self.base.give_back(base)

    def _train(self, model: Any, optimizer: torch.optim.Optimizer, state: State) -> None:
        done = self._go_on(state.load(model, optimizer, self._kept_is_there))
        if self.team.rank == 0:
            remove_others(self.spec.out_dir / CHECKPOINTS_FOLDER, {c.file.path for c in self.checkpoints})
        clock = Clock(self.spec.drive.save_state_every)
        for number in range(done + 1, self.schedule.steps + 1):
            if self.team.total(self.stop.requested(self.spec.drive)):  # where one is to stop, all do
                raise self._pause(model, optimizer, state, number - 1)
            self._one(model, optimizer, self.schedule.step(number))
            if self.team.total(clock.due()):
                self._save_if_it_fits(model, optimizer, state)
                clock.wrote()
        if self.team.total(clock.every > 0 and time.monotonic() - clock.last >= min(clock.every, FINAL_STATE_AFTER)):
            self._save_if_it_fits(model, optimizer, state)

    def _save_if_it_fits(self, model: Any, optimizer: torch.optim.Optimizer, state: State) -> None:
        """Save the state in case of a kill. A disk too full for it is no reason to end a training whose result may well fit; it is told once."""
        try:
            state.save(model, optimizer, self._so_far())
        except (OSError, RuntimeError) as error:
            if not is_disk_full(error):
                raise
            if not self.told_of_disk:
                words = "The disk is too full for the training's state; the training goes on, but after a kill it would begin again or further back."
                self.progress({"event": "warning", "message": words})
            self.told_of_disk = True

    def _one(self, model: Any, optimizer: torch.optim.Optimizer, step: Step) -> None:
        started = time.monotonic()
        device = next(model.parameters()).device
        rows = [self._row(step, batch, device) for batch in self.team.share(step.micro_batches)]
        rate = learning_rate(self.recipe, step.number, self.schedule.steps)
        set_learning_rate(optimizer, rate)
        trained = self.team.total(sum(row.trained for row in rows))
        done = train_step(model, optimizer, rows, trained / self.team.size, self.recipe)
        self.seconds += time.monotonic() - started
        self._note(step, rate, Done(self.team.total(done.loss) / self.team.size, done.norm, trained))
        if step.number in self.kept:
            self._keep(model, step, rate)

    def _row(self, step: Step, batch: Sequence[int], device: torch.device) -> Row:
        """A micro-batch's row; of an empty share, any row that is not trained on."""
        row = lay_out([self.data.train[i] for i in batch or step.micro_batches[0]], device)
        return row if batch else row.untrained()

    def _note(self, step: Step, rate: float, done: Done) -> None:
        """Add a step to the curve and tell of it. Raises TrainingFailed for a loss or a gradient that is NaN or infinite."""
        if not (math.isfinite(done.loss) and math.isfinite(done.norm)):
            raise TrainingFailed(
                f"The loss is no number any more at step {step.number} of {self.schedule.steps} (loss {done.loss}, gradient {done.norm}).",
                hint="Lower learning_rate or max_grad_norm; nothing was registered.",
            )
        self.trained_tokens += round(done.trained)
        self.curve.append({"step": step.number, "epoch": step.epoch, "loss": done.loss, "learning_rate": rate})
        self.progress({"event": "step", "step": step.number, "of": self.schedule.steps, "loss": done.loss})

    def _keep(self, model: Any, step: Step, rate: float) -> None:
        """Keep the adapter as it is after a step."""
        path = self._checkpoint_path(step.number)
        tensors = adapter.trained_tensors(model, self.recipe, self.team)
        if self.team.rank == 0:
            file = self._tensor_file(path, tensors)
            self.checkpoints.append(Checkpoint(step.number, step.epoch, rate, file))

    def _tensor_file(self, path: Path, tensors: dict[str, torch.Tensor]) -> FileEntry:
        """An adapter goes through memory; a whole model does not have to be there twice."""
        if self.recipe.method == "full":
            return write_with(path, lambda part: save_file(tensors, part, metadata=adapter.METADATA))
        return write_whole(path, adapter.as_bytes(tensors))

    def _checkpoint_path(self, step: int) -> Path:
        return self.spec.out_dir / CHECKPOINTS_FOLDER / f"step-{step:06d}.safetensors"

    def _so_far(self) -> dict[str, Any]:
        return {
            "curve": self.curve,
            "trained_tokens": self.trained_tokens,
            "seconds": self.seconds,
            "checkpoints": [[c.step, c.epoch, c.learning_rate, c.file.path, c.file.sha256, c.file.size] for c in self.checkpoints],
        }

    def _kept_is_there(self, saved: Mapping[str, Any]) -> bool:
        """Whether the adapters that were kept before the state still lie beside it, byte for byte."""
        paths = [(self._checkpoint_path(step), sha256) for step, _, _, _, sha256, _ in saved["checkpoints"]]
        return all(path.is_file() and file_digest(path) == sha256 for path, sha256 in paths)

    def _go_on(self, saved: Mapping[str, Any] | None) -> int:
        """Take up what a state says; returns the number of steps that are done."""
        if saved is None:
            return 0
        self.curve, self.trained_tokens, self.seconds = list(saved["curve"]), saved["trained_tokens"], saved["seconds"]
        self.checkpoints = [Checkpoint(step, epoch, rate, FileEntry(*file)) for step, epoch, rate, *file in saved["checkpoints"]]
        self.progress({"event": "resumed", "step": len(self.curve), "of": self.schedule.steps})
        return len(self.curve)

    def _pause(self, model: Any, optimizer: torch.optim.Optimizer, state: State, done: int) -> Paused:
        state.save(model, optimizer, self._so_far())
        return Paused(
            f"Stopped at step {done} of {self.schedule.steps}; the same command goes on from there.", hint="Nothing was registered yet."
        )

    def _write(self, folder: Path, model: Any) -> tuple[FileEntry, ...]:
        tensors = adapter.trained_tensors(model, self.recipe, self.team)
        if self.team.rank:
            return ()
        if self.recipe.method == "full":
            return write_full(folder, lambda path: save_file(tensors, path, metadata=adapter.METADATA), self.spec.base, self.recipe.dtype)
        return write_adapter(folder, adapter.as_bytes(tensors), adapter.peft_config(model), self.spec.base)

    def _on_step(self, number: int, of: int) -> None:
        self.progress({"event": "heldout", "step": number, "of": of})

    def _measure_before(self) -> Measured:
        """The base's own figures, where the training will leave nothing of it to measure later."""
        with self.phase("base_evaluation"), self._as_saved(self.base.model):
            return measure_one(self.base.model.eval(), self.data.heldout, self.fixed, self._on_step)

    @contextmanager
    def _as_saved(self, model: Any) -> Iterator[None]:
        """Inside, the weights of a full fine-tune have the dtype that they are saved and served in; afterwards they are as before.

        Base and result are both measured so, because their difference is what promotion is decided by. Buffers, such as the rotary frequencies, stay in 32 bits,
        as a model that is loaded in that dtype has them. Sharded weights are measured as they are trained, before and after.
        """
        dtype = getattr(torch, self.recipe.dtype)
        parameters = [p for p in model.parameters() if p.dtype != dtype] if self.team.size == 1 else []
        exact = [_rounded(p, dtype) for p in parameters]
        try:
            yield
        finally:
            for parameter, value in zip(parameters, exact, strict=True):
                parameter.data = parameter.data.float() if value is None else value

    def _measure(self, model: Any, before: Measured | None) -> tuple[Measured, Measured]:
        if before is not None:
            with self._as_saved(model):
                return measure_one(model, self.data.heldout, self.fixed, self._on_step), before
        ours = measure_one(model, self.data.heldout, self.fixed, self._on_step)
        return ours, measure_one(model, self.data.heldout, self.fixed, self._on_step, with_adapter=False)

    def _measurements(self, ours: Measured, theirs: Measured) -> dict[str, Any]:
        return {
            "heldout": heldout_rows(self.data.heldout, ours, theirs),
            "canary": canary_rows(self.fixed, ours, theirs),
        }

    def _figures(self) -> dict[str, Any]:
        steps = len(self.curve)
        return {
            "loss_curve": self.curve,
            "steps": steps,
            "trained_tokens": sum(e.trained for e in self.data.train),  # in one pass over the training set
            "tokens": sum(len(e.input_ids) for e in self.data.train),  # all that one pass reads, trained or not
            "train_examples": len(self.data.train),
            "tokens_per_second": round(self.trained_tokens / self.seconds, 1)
            if self.seconds
            else 0.0,  # trained tokens, over the steps alone
            "seconds_per_step": round(self.seconds / steps, 4) if steps else 0.0,
            "peak_memory_bytes": peak_memory(self.recipe),
        }

    def _optimizer_settings(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimizer as it ran: its class and settings, its groups by size and rate, and the schedule in steps."""
        defaults = {k: v for k, v in optimizer.defaults.items() if isinstance(v, str | int | float | bool | tuple) or v is None}
        groups = [
            {"parameters": len(g["params"]), "learning_rate_ratio": g["ratio"], "weight_decay": g["weight_decay"]}
            for g in optimizer.param_groups
        ]
        steps = self.schedule.steps
        schedule = {"kind": self.recipe.scheduler, "steps": steps, "warmup_steps": math.floor(self.recipe.warmup * steps)}
        return {"class": type(optimizer).__name__, "defaults": defaults, "groups": groups, "schedule": schedule}

    def _record(self, optimizer: Mapping[str, Any]) -> dict[str, Any]:
        """What a repeat needs beside machine and software."""
        base = self.spec.base
        return {
            "base": {
                "repo": base.repo,
                "revision": base.revision,
                "weights_sha256": self.base.weights.sha256,
                "index_sha256": self.base.weights.index_sha256,
                "quantization": quantization(self.recipe),
            },
            "optimizer": dict(optimizer),
            "chat_template_sha256": self.recipe.chat_template_sha256,
            "dataset_sha256": self.data.dataset_sha256,
            "seeds": {"all": self.spec.seed, "data_order": self.spec.seed},
            "training_seconds": round(self.seconds, 3),
            "trained_tokens_in_all": self.trained_tokens,
            "peak_memory_bytes": peak_memory(self.recipe),
        }


def _rounded(parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """Take a parameter to a narrower dtype. Returns its exact value, or None where nothing was lost: a base that was published in 16 bits costs no copy."""
    value, parameter.data = parameter.data, parameter.data.to(dtype)
    return None if torch.equal(parameter.data.float(), value) else value
