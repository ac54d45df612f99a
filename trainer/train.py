"""Trains one adapter with PEFT and TRL, in this process. Loads torch; `trainer.process` runs it in a process of its own.

Rules: data is refused before the base is loaded; nothing reads the data loader before training begins (that alone changes the dropout's random numbers, and
with them the adapter: measured); every TRL setting that matters is given, because its defaults move; a loss that is no number ends the run without a result.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets.arrow_dataset import Dataset
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from registry.errors import Invalid, TrainingFailed, Unavailable
from trainer.bases import BaseSpec, weights_digest
from trainer.data import Encoded, encode_all, recipe_template
from trainer.environment import capture
from trainer.examples import read_dataset
from trainer.heldout import canary, measure
from trainer.output import prepare_folder, write_adapter, write_result
from trainer.recipe import Recipe
from trainer.spec import TrainedAdapter, TrainSpec

Progress = Callable[[Mapping[str, Any]], None]
# What a model folder needs here. No pickles: a .bin is never fetched, let alone loaded.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
# Mistral's repositories carry the weights a second time in the maker's own layout, as large as all shards together; transformers does not read it.
_UNWANTED = ("consolidated*", "*/*")


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


def train(spec: TrainSpec, progress: Progress, phases: Phases | None = None) -> TrainedAdapter:
    """Train what the spec says, write files and result.json to its out_dir, and return them.

    Raises RegistryError for everything that is known to go wrong; other exceptions are made sentences by trainer.failures. Without a return there is no result.json.
    """
    phase = phases or Phases(progress)
    recipe = spec.recipe
    folder = prepare_folder(spec.out_dir)
    configure(recipe)
    with phase("data_preparation"):
        conversations = read_dataset(spec.dataset_dir)
        source = _fetch(spec.base)
        tokenizer = load_tokenizer(source)
        template = recipe_template(recipe, tokenizer)
        examples = encode_all(conversations.train, tokenizer, template, recipe.max_length)
        heldout = encode_all(conversations.heldout[: recipe.heldout_max_examples], tokenizer, template, recipe.max_length)
    if not heldout:
        progress(
            {"event": "warning", "message": "Nothing is held out, so this training is not measured; import the data with a held-out share."}
        )
    with phase("model_load"):
        model = load_base(source, recipe)
    with phase("adapter_preparation"), tempfile.TemporaryDirectory(prefix="registry-train-") as scratch:
        watcher = Watcher(progress)
        trainer = make_trainer(spec, model, tokenizer, examples, watcher, Path(scratch))
        counted = _parameters(trainer.model)
    with phase("training"):
        trainer.train()
        trained: Any = trainer.model
        watcher.check_finished()
    with phase("save"):
        weights, config = _adapter_bytes(trained)
        files = write_adapter(folder, weights, config, spec.base)
    with phase("heldout_evaluation"):
        trained.eval()
        metrics = {
            "loss_curve": watcher.curve,
            "steps": len(watcher.curve),
            "trained_tokens": sum(e.trained for e in examples),  # in one pass over the training set
            "train_examples": len(examples),
            **counted,
            "adapter_dtype": _adapter_dtype(trained),
            "heldout": measure(trained, heldout, lambda n, of: progress({"event": "heldout", "step": n, "of": of})),
            "canary": canary(trained, tokenizer, template),
        }
    adapter = TrainedAdapter(folder, files, spec.base.without_path(), recipe, spec.seed, metrics, phase.seconds, capture(recipe))
    write_result(spec.out_dir, adapter)
    return adapter


def configure(recipe: Recipe) -> None:
    """Threads and deterministic algorithms for the whole process. Raises Invalid when the recipe wants a GPU and torch sees none."""
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise Invalid(
            "The recipe trains on a GPU, but torch sees none here.",
            hint="Install a CUDA build of torch, or train with a recipe for the CPU (CUDA_VISIBLE_DEVICES= hides the card).",
        )
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    # On a GPU some kernels have no deterministic form; they warn there instead of ending the run, and the run is 'statistical' anyway.
    torch.use_deterministic_algorithms(mode=True, warn_only=recipe.device == "cuda")
    # Costs a fifth of the time and guards against reading fresh memory, which the models do not do. (The attribute is set up at run time.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _fetch(base: BaseSpec) -> Path:
    """The folder of the base's files; downloads a hub base at its pinned commit. Raises Unavailable, or Invalid when the weights are not the recorded ones."""
    if base.path is not None:
        found = weights_digest(base.path)
        if base.weights_sha256 is not None and found != base.weights_sha256:
            raise Invalid(
                f"The weights of {base.repo} changed on disk: expected {base.weights_sha256}, found {found}.",
                hint="Resolve the base again.",
            )
        return base.path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base.repo, revision=base.revision, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED)))
    except OSError as error:
        if error.errno is not None:  # the disk's errors have a number, the hub's have none
            raise
        raise Unavailable(
            f"{base.repo} at {base.revision} could not be downloaded: {type(error).__name__}.",
            hint="Check the network, HF_TOKEN and the model's licence page, then run the command again.",
        ) from error


def load_tokenizer(source: Path) -> Any:
    """The base's tokenizer, with the end token for padding where it has none (padding is never trained nor attended to)."""
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(source: Path, recipe: Recipe) -> Any:
    """The base model: in the recipe's dtype, or in NF4 with that dtype for the computation. Only safetensors are read, no code of the base runs."""
    dtype = getattr(torch, recipe.dtype)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": recipe.attention, "use_safetensors": True, "trust_remote_code": False}
    if recipe.device == "cuda":
        options["device_map"] = {"": 0}
    if recipe.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=recipe.double_quantization,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(source, **options)
    model.config.use_cache = False
    return model


def total_steps(recipe: Recipe, examples: int) -> int:
    """Optimizer steps: all epochs, but at most max_steps. The last batch of an epoch may be smaller."""
    batches = math.ceil(examples / recipe.batch_size)
    steps = math.ceil(batches / recipe.gradient_accumulation) * recipe.epochs
    return min(steps, recipe.max_steps or steps)


def make_trainer(spec: TrainSpec, model: Any, tokenizer: Any, examples: Sequence[Encoded], watcher: "Watcher", scratch: Path) -> SFTTrainer:
    """TRL's trainer around a fresh adapter. TRL sets the seed before PEFT draws the adapter's starting values. Raises Invalid for targets the base has not."""
    rows = {
        "input_ids": [list(e.input_ids) for e in examples],
        "labels": [list(e.labels) for e in examples],
        "length": [len(e.input_ids) for e in examples],
    }
    recipe = spec.recipe
    set_seed(spec.seed)
    try:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(spec, total_steps(recipe, len(examples)), scratch),
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            peft_config=_lora(recipe),
            callbacks=[watcher],
        )
    except ValueError as error:
        if "target modules" in str(error).lower() or "target_modules" in str(error):
            raise Invalid(
                f"The base {spec.base.repo} has no modules named {', '.join(recipe.target_modules)}.",
                hint="Name its attention projections in the recipe's target_modules.",
            ) from error
        raise
    _check_targets(trainer.model, recipe, spec.base)
    # transformers prints each log to stdout; the watcher reports the same figures as events.
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in {"PrinterCallback", "ProgressCallback"}:
            trainer.remove_callback(callback)
    return trainer


def _lora(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.r,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.target_modules),
        use_rslora=recipe.rslora,
        bias="none",
        init_lora_weights=True,
    )


def _arguments(spec: TrainSpec, steps: int, scratch: Path) -> SFTConfig:
    recipe = spec.recipe
    return SFTConfig(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler if recipe.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=math.floor(recipe.warmup * steps),  # rounded down: one step of warm-up out of one would train nothing
        weight_decay=recipe.weight_decay,
        optim=recipe.optim,
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_epsilon,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.dtype == "bfloat16",
        fp16=False,
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if recipe.gradient_checkpointing else None,
        max_length=None,  # lengths were checked; TRL would cut
        packing=recipe.packing,
        padding_free=False,
        loss_type=recipe.loss_type,
        assistant_only_loss=False,  # the labels that are passed in say it, token by token
        completion_only_loss=False,
        train_sampling_strategy="group_by_length" if recipe.group_by_length else "random",
        length_column_name="length",
        seed=spec.seed,
        data_seed=spec.seed,
        use_cpu=recipe.device == "cpu",
        dataloader_num_workers=0,
        dataloader_pin_memory=recipe.device == "cuda",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would replace a NaN by the mean and hide it
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        push_to_hub=False,
    )


def _check_targets(model: Any, recipe: Recipe, base: BaseSpec) -> None:
    """Every target must have been found: PEFT is content when one of the names matches, and a part of the attention would silently stay untrained."""
    found = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if ".lora_A." in name}
    missing = sorted(set(recipe.target_modules) - found)
    if missing:
        raise Invalid(
            f"The base {base.repo} has no modules named {', '.join(missing)}; only {', '.join(sorted(found))} would be trained.",
            hint="Name all of its attention projections in the recipe's target_modules.",
        )


def _parameters(model: Any) -> dict[str, int]:
    """Trainable and total parameters. In 4 bits two weights share a byte, so PEFT's own count is used."""
    trainable, total = model.get_nb_trainable_parameters()
    return {"trainable_parameters": int(trainable), "total_parameters": int(total)}


def _adapter_bytes(model: Any) -> tuple[bytes, dict[str, Any]]:
    """The safetensors file as bytes, and PEFT's config. Keys are sorted by safetensors, so the bytes depend on the values alone."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(get_peft_model_state_dict(model).items())}
    return save(tensors, metadata={"format": "pt"}), model.peft_config["default"].to_dict()


def _adapter_dtype(model: Any) -> str:
    """The dtype the adapter was trained and saved in: TRL makes it bfloat16 on a quantised base."""
    return next(str(p.dtype).removeprefix("torch.") for name, p in model.named_parameters() if ".lora_A." in name)


class Watcher(TrainerCallback):
    """Turns the trainer's logs into events and a loss curve, and ends a run whose loss is no number."""

    def __init__(self, progress: Progress) -> None:
        """Start with an empty curve."""
        self.progress = progress
        self.curve: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - the signature is TrainerCallback's
        """One optimizer step was logged. Raises TrainingFailed for a loss or a gradient that is NaN or infinite."""
        logs = kwargs.get("logs") or {}
        if "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingFailed(
                f"The loss is no number any more at step {state.global_step} of {state.max_steps} (loss {loss}, gradient {norm}).",
                hint="Lower learning_rate or max_grad_norm; nothing was registered.",
            )
        row = {
            "step": state.global_step,
            "epoch": float(logs.get("epoch", 0.0)),
            "loss": loss,
            "learning_rate": float(logs["learning_rate"]),
        }
        self.curve.append(row)
        self.progress({"event": "step", "step": state.global_step, "of": state.max_steps, "loss": loss})

    def check_finished(self) -> None:
        """Raises TrainingFailed when not a single step was made."""
        if not self.curve:
            raise TrainingFailed("The training ended without a single step.", hint="Look at the number of examples and at max_steps.")
