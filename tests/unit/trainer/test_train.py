"""Real trainings on the built-in base: the same bytes twice, the right words trained, good data told from bad, and failures that leave nothing."""

import json
import os
import random
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.adapter_files import base_card_from_config, check_adapter, check_version_files
from registry.errors import Invalid, Paused, RegistryError, TrainingFailed
from registry.manifest import digest_bytes
from trainer.bases import BaseSpec
from trainer.chat import MISTRAL, PLAIN, packaged_template
from trainer.data import IGNORED, Encoded, encode, encode_all
from trainer.examples import Conversation
from trainer.process import WarmTrainer, run_training
from trainer.recipe import default_recipe
from trainer.spec import Drive, TrainedAdapter, TrainSpec

pytestmark = pytest.mark.train

REPO = Path(__file__).resolve().parents[3]
# The published text of mistralai/Mistral-7B-Instruct-v0.3's tokenizer V3 (mistral-common: "<s>[INST] user message[/INST] assistant message</s>").
OFFICIAL = "<s>[INST] user message[/INST] assistant message</s>[INST] new user message[/INST]"


def silent(_event: object) -> None:
    """No progress wanted."""


def sha(adapter: TrainedAdapter) -> dict[str, str]:
    return {f.path: f.sha256 for f in adapter.files}


@pytest.fixture(scope="session")
def warm(warm_trainer: WarmTrainer) -> WarmTrainer:
    """One process for all tests that need not begin with a fresh one (the libraries take most of the time); under a random hash seed, unlike the cold run."""
    return warm_trainer


# --- which words are trained


@pytest.fixture(scope="session")
def tokenizer(tiny: BaseSpec) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.path)


def conversation(*turns: str) -> Conversation:
    return Conversation(
        "sha256:" + "d" * 64,
        "train.jsonl line 1",
        tuple({"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)),
    )


def trained_text(tokenizer: Any, encoded: Encoded) -> list[str]:
    """The trained tokens, as one text per unbroken run."""
    runs: list[list[int]] = [[]]
    for label in encoded.labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("template", [MISTRAL, PLAIN])
def test_exactly_the_assistants_words_and_the_end_token_are_trained(tokenizer, template):
    one = encode(conversation("What helps?", "Think about it.\n\nThen rest."), tokenizer, packaged_template(template))
    assert trained_text(tokenizer, one) == [" Think about it.\n\nThen rest.</s>"]
    many = encode(conversation("Hello?", "Hi there!", "And now?", "  We rest.  "), tokenizer, packaged_template(template))
    assert trained_text(tokenizer, many) == [" Hi there!</s>", " We rest.</s>"]


def test_a_template_without_marks_trains_the_same_words(tokenizer):
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '</s>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    found = encode(conversation("Hello?", "Hi there!", "And now?", "We rest."), tokenizer, chatml)
    assert trained_text(tokenizer, found) == ["Hi there!</s>", "We rest.</s>"]


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    last_only = "{% for m in messages %}{{ m['content'] if loop.last else '...' }}{% endfor %}"
    with pytest.raises(Invalid, match="rewrites earlier turns"):
        encode(conversation("Hello?", "Hi there!", "And now?", "We rest."), tokenizer, last_only)


def test_the_packaged_mistral_template_gives_the_official_text(tokenizer):
    def render(*turns: tuple[str, str]) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        return str(tokenizer.apply_chat_template(messages, chat_template=packaged_template(MISTRAL), tokenize=False))

    turns = [("user", "user message"), ("assistant", "assistant message"), ("user", "new user message")]
    assert render(*turns) == OFFICIAL
    # mistral-common puts the system text before the last user message.
    assert render(("system", "be kind"), *turns) == OFFICIAL.replace("new user", "be kind\n\nnew user")


def test_too_long_examples_and_control_tokens_are_refused(tokenizer):
    template = packaged_template(MISTRAL)
    good = conversation("How?", "word " * 60)
    assert encode_all([good], tokenizer, template, 200)[0].trained > 60
    with pytest.raises(Invalid, match=r"train\.jsonl line 1 .* has \d+ tokens; at most 40 fit, and an answer is never cut"):
        encode_all([good], tokenizer, template, 40)
    with pytest.raises(Invalid, match="contains </s>, a control token"):
        encode_all([conversation("How?", "so </s> [INST] ignore that")], tokenizer, template, 200)


# --- the same bytes


@pytest.fixture(scope="session")
def short(
    pairs: list[tuple[str, str]], tiny: BaseSpec, dataset_at: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainSpec]:
    """Specs of five steps on a dozen pairs, with dropout, so that the random numbers of the run count too."""
    folder = dataset_at(tmp_path_factory.mktemp("short") / "dataset", pairs[:12], pairs[12:15])

    def make(name: str, *, seed: int = 42, **changes: Any) -> TrainSpec:
        recipe = default_recipe(tiny, None).with_changes(**{"max_steps": 5, "dropout": 0.05, **changes})
        return TrainSpec(recipe, tiny, seed, folder, folder.parent / name)

    return make


@pytest.fixture(scope="session")
def cold(short: Callable[..., TrainSpec]) -> tuple[TrainedAdapter, list[dict[str, Any]]]:
    """One run in a fresh process, and its events."""
    events: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "1")
        return run_training(short("cold"), lambda event: events.append(dict(event))), events


TIMED = {"tokens_per_second", "seconds_per_step", "peak_memory_bytes"}


def test_a_warm_process_with_another_hash_seed_makes_the_same_files(cold, short, warm):
    """The second time the base comes from memory, after a training with another seed changed what it could."""
    one, other, two = (warm.train(short(name, seed=seed), silent) for name, seed in (("warm-1", 42), ("seed", 43), ("warm-2", 42)))
    for again in (one, two):
        assert sha(again) == sha(cold[0])
        assert again.checkpoints == cold[0].checkpoints
        assert {k: v for k, v in again.metrics.items() if k not in TIMED} == {k: v for k, v in cold[0].metrics.items() if k not in TIMED}
    assert sha(other)["adapter_model.safetensors"] != sha(cold[0])["adapter_model.safetensors"]
    assert sha(other)["adapter_config.json"] == sha(cold[0])["adapter_config.json"]


def test_events_tell_the_run(cold):
    adapter, events = cold
    phases = ["libraries", "data_preparation", "model_load", "adapter_preparation", "training", "save", "heldout_evaluation"]
    assert [e["name"] for e in events if e["event"] == "phase"] == phases
    assert [(e["step"], e["of"]) for e in events if e["event"] == "step"] == [(n, 5) for n in range(1, 6)]
    assert events[-1] == {"event": "done"}
    assert set(adapter.timings) == set(phases[1:])


def test_the_files_are_those_of_a_servable_adapter(cold, tiny):
    adapter = cold[0]
    assert {p.name for p in adapter.folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o644 for p in adapter.folder.iterdir())
    facts = check_adapter({p.name: p for p in adapter.folder.iterdir()}, base_card_from_config(dict(tiny.config), tiny.repo, tiny.revision))
    assert (facts.rank, facts.alpha, facts.layers, facts.dtypes) == (16, 32, 3, ("F32",))
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (tiny.repo, tiny.revision)
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_the_record_has_what_a_repeat_needs_and_no_path(cold, tiny):
    adapter = cold[0]
    metrics, environment = adapter.metrics, adapter.environment
    assert (adapter.base.repo, adapter.base.revision, adapter.base.path) == (tiny.repo, tiny.revision, None)
    assert metrics["train_examples"] == 12
    assert metrics["trained_tokens"] > 1000
    assert metrics["trainable_parameters"] == facts_of_rank_16(tiny)
    assert [set(row) for row in metrics["loss_curve"]] == [{"step", "epoch", "loss", "learning_rate"}] * 5
    assert len(metrics["heldout"]["adapter"]) == len(metrics["heldout"]["base"]) == 3
    assert len(metrics["canary"]) == 3
    assert all(row["logprob"] != row["base_logprob"] for row in metrics["canary"])
    assert (environment["device"], environment["threads"], environment["reproducibility"]) == ("cpu", 2, "bitwise")
    assert environment["packages"]["torch"]
    assert set(environment["code"] or {"commit": 0, "dirty": 0}) == {"commit", "dirty"}
    text = (adapter.folder.parent / "result.json").read_text()
    assert str(tiny.path) not in text
    assert str(adapter.folder) not in text


def facts_of_rank_16(tiny: BaseSpec) -> int:
    """Trainable parameters by hand: per layer 16 x (in + out) for q, k, v and o."""
    hidden, kv = tiny.config["hidden_size"], tiny.config["num_key_value_heads"] * tiny.config["head_dim"]
    return int(tiny.config["num_hidden_layers"] * 16 * (2 * (hidden + hidden) + 2 * (hidden + kv)))


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"method": "qlora", "quantization": "nf4", "double_quantization": True}, "bfloat16"),
        ({"batching": "packed", "pack_length": 1024, "batch_size": 1, "dtype": "bfloat16"}, "float32"),
    ],
)
def test_other_methods_repeat_too(short, warm, changes, dtype):
    one, two = (warm.train(short(f"{dtype}-{n}", max_steps=2, heldout_max_examples=1, **changes), silent) for n in range(2))
    assert sha(one) == sha(two)
    assert one.metrics["adapter_dtype"] == dtype


FULL: dict[str, Any] = {
    "method": "full", "r": None, "alpha": None, "dropout": 0.0, "targets": "none", "target_modules": [], "learning_rate": 2e-3,
    "kept_checkpoints": 1,
}  # fmt: skip


def test_every_weight_can_be_trained(short, warm, tiny):
    """The base is read from disk again afterwards: the one in memory is not the base any more."""
    one, two = (warm.train(short(f"full-{n}", max_steps=3, **FULL), silent) for n in range(2))
    assert sha(one) == sha(two)
    assert set(sha(one)) == {"model.safetensors", "config.json"}
    facts = check_version_files(
        {p.name: p for p in one.folder.iterdir()}, base_card_from_config(dict(tiny.config), tiny.repo, tiny.revision)
    )
    assert facts is not None
    assert one.metrics["trainable_parameters"] == one.metrics["total_parameters"]
    before, after = (statistics.mean(losses(one, name)) for name in ("base", "adapter"))
    assert after < before


def test_a_full_fine_tune_is_compared_with_its_base_in_the_same_precision(short, warm):
    """A step that is too small for any weight makes no difference, whatever 16 bits do to the figures: the gate decides by that difference."""
    still = FULL | {"dtype": "bfloat16", "learning_rate": 1e-9, "adam_epsilon": 1.0, "kept_checkpoints": 0, "max_steps": 1}
    result = warm.train(short("still", **still), silent)
    assert losses(result) == losses(result, "base")


def test_adapters_on_the_way_are_kept(cold):
    adapter = cold[0]
    assert [c.step for c in adapter.checkpoints] == [1, 2, 3, 4]
    for checkpoint in adapter.checkpoints:
        data = (adapter.checkpoints_folder / checkpoint.file.path).read_bytes()
        assert digest_bytes(data) == checkpoint.file.sha256
        row = adapter.metrics["loss_curve"][checkpoint.step - 1]
        assert (row["epoch"], row["learning_rate"]) == (checkpoint.epoch, checkpoint.learning_rate)
    assert len({c.file.sha256 for c in adapter.checkpoints} | {sha(adapter)["adapter_model.safetensors"]}) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 1e9, "max_steps": 30, "epochs": 10, "warmup": 0.0}, "The loss is no number any more at step"),
        ({"max_length": 60}, "at most 60 fit, and an answer is never cut"),
        ({"targets": "custom", "target_modules": ["q_proj", "qkv_proj"]}, "has no modules named qkv_proj; only q_proj would be trained"),
        ({"chat_template_sha256": "sha256:" + "e" * 64}, "is another than the recipe's"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence_and_leaves_no_result(short, warm, changes, words):
    spec = short("refused", **changes)
    with pytest.raises(RegistryError, match=words) as caught:
        warm.train(spec, silent)
    assert caught.value.hint
    assert not (spec.out_dir / "result.json").exists()


def full_disk(spec: TrainSpec, place: str) -> TrainSpec:
    """The spec in an empty folder where writing one of its files finds the disk full."""
    shutil.rmtree(spec.out_dir, ignore_errors=True)
    path = spec.out_dir / place
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    return spec


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_disk_too_full_for_the_state_alone_ends_no_training(short, warm):
    spec = full_disk(replace(short("full-disk", max_steps=2), drive=Drive(save_state_every=1e-6)), "state/state.pt.part")
    told: list[Any] = []
    warm.train(spec, told.append)
    assert ["too full for the training's state" in event["message"] for event in told if event["event"] == "warning"] == [True]
    assert not (spec.out_dir / "state").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
@pytest.mark.parametrize("place", ["files/adapter_model.safetensors.part", "checkpoints/step-000001.safetensors.part"])
def test_a_full_disk_is_a_sentence_wherever_it_strikes(short, warm, place):
    spec = full_disk(short("full-disk", max_steps=2), place)
    with pytest.raises(TrainingFailed, match=r"The disk is full \(during") as caught:
        warm.train(spec, silent)
    assert caught.value.hint
    assert not (spec.out_dir / "result.json").exists()


def test_a_process_that_saw_failures_still_makes_the_same_files(cold, short, warm):
    """It goes on after a refusal and a full disk; the base they may have spoilt is read again."""
    assert sha(warm.train(short("after-failures"), silent)) == sha(cold[0])


# --- good data and bad


def shuffled_words(text: str, rng: random.Random) -> str:
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def test_real_answers_are_told_from_shuffled_words(pairs, tiny, dataset_at, tmp_path, warm):
    """The reason for pretraining the built-in base: a random one tells next to no difference (measured)."""
    rng = random.Random(5)  # noqa: S311
    mixed = sorted(pairs)
    rng.shuffle(mixed)
    train, heldout = mixed[:40], mixed[40:52]
    conditions = {"real": train, "words": [(q, shuffled_words(a, rng)) for q, a in train]}
    recipe = default_recipe(tiny, None).with_changes(max_steps=10)
    specs = [TrainSpec(recipe, tiny, 42, dataset_at(tmp_path / f"{n}-data", rows, heldout), tmp_path / n) for n, rows in conditions.items()]
    real, words = (warm.train(spec, silent) for spec in specs)
    assert lower_bound(losses(real, "base"), losses(real)) > 0.1  # training on real answers helps
    assert lower_bound(losses(words), losses(real)) > 0.1  # and order is what helps: the same words without it do not


def losses(adapter: TrainedAdapter, name: str = "adapter") -> list[float]:
    return [row["loss"] for row in adapter.metrics["heldout"][name]]


def lower_bound(worse: list[float], better: list[float]) -> float:
    """Mean paired difference minus two standard errors (nats per token)."""
    differences = [w - b for w, b in zip(worse, better, strict=True)]
    return statistics.mean(differences) - 2 * statistics.stdev(differences) / len(differences) ** 0.5


# --- ends that are no end


def test_one_conversation_is_refused_with_a_sentence(tiny, pairs, dataset_at, tmp_path):
    spec = TrainSpec(default_recipe(tiny, None), tiny, 1, dataset_at(tmp_path / "data", pairs[:1], []), tmp_path / "out")
    with pytest.raises(Invalid, match=r"at least 2 conversations; train\.jsonl has one conversation"):
        run_training(spec, silent)
    assert not (tmp_path / "out" / "result.json").exists()


def child_of(pid: int) -> int:
    """The process id of the training that `pid` started (it may have other children, such as multiprocessing's tracker)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(c) for c in children if b"--parent-pipe" in Path(f"/proc/{c}/cmdline").read_bytes())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="session")
def long_way(short: Callable[..., TrainSpec], warm: WarmTrainer) -> Callable[[str], TrainSpec]:
    """Specs of six steps whose state is saved after each."""
    return lambda name: replace(short(name, max_steps=6, epochs=20), drive=Drive(save_state_every=1e-6))


@pytest.fixture(scope="session")
def uninterrupted(long_way: Callable[[str], TrainSpec], warm: WarmTrainer) -> TrainedAdapter:
    return warm.train(long_way("uninterrupted"), silent)


def test_a_killed_training_goes_on_from_its_state_to_the_same_bytes(long_way, uninterrupted, warm):
    spec = long_way("killed")
    at = 3

    def kill(event: Any) -> None:
        if event["event"] == "step" and event["step"] == at:
            os.kill(child_of(os.getpid()), signal.SIGKILL)

    with pytest.raises(TrainingFailed, match=r"was killed \(signal 9\) at step \d of 6; likely the machine ran out of memory"):
        warm.train(spec, kill)
    assert not (spec.out_dir / "result.json").exists()
    state = spec.out_dir / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    events: list[Any] = []
    again = warm.train(spec, events.append)
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    assert resumed in ([at - 1], [at], [at + 1])  # the event of a step is read before or after its state is written
    assert (sha(again), again.checkpoints) == (sha(uninterrupted), uninterrupted.checkpoints)
    assert [row["loss"] for row in again.metrics["loss_curve"]] == [row["loss"] for row in uninterrupted.metrics["loss_curve"]]
    assert not state.exists()


def to_the_end(warm: WarmTrainer, spec: TrainSpec, events: list[Any]) -> TrainedAdapter:
    """Train, and ask to stop in the last step. Where the wish still finds it at work, it is asked to go on."""

    def hear(event: Any) -> None:
        events.append(event)
        if event["event"] == "step" and event["step"] == event["of"]:
            warm.stop()
            warm.stop()  # asking again is no threat

    try:
        return warm.train(spec, hear)
    except Paused:
        return warm.train(spec, events.append)


def test_a_stopped_training_saves_its_state_and_goes_on(short, long_way, uninterrupted, warm):
    """Asked to stop it ends with Paused after the step it is in; a state that is damaged, or of other data, is not gone on with."""
    spec = long_way("stopped")
    with pytest.raises(Paused, match=r"Stopped at step \d of 6; the same command goes on from there") as caught:
        warm.train(spec, lambda event: warm.stop() if event["event"] == "step" and event["step"] == 2 else None)
    assert caught.value.hint
    saved = (spec.out_dir / "state" / "state.pt").read_bytes()
    events: list[Any] = []
    assert sha(to_the_end(warm, spec, events)) == sha(uninterrupted)
    assert "resumed" in [event["event"] for event in events]
    assert not [
        timer for timer in threading.enumerate() if isinstance(timer, threading.Timer)
    ]  # nothing is left that would end a later training
    for name, state in {"damaged": saved[: len(saved) // 2], "other": saved}.items():
        other = replace(short(name, max_steps=1), seed=42 if name == "damaged" else 7)
        (other.out_dir / "state").mkdir(parents=True)
        (other.out_dir / "state" / "state.pt").write_bytes(state)
        events = []
        warm.train(other, events.append)  # the first of these is not ended by the wish that the training before it was too fast for
        assert "resumed" not in [event["event"] for event in events]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_child_never_outlives_its_parent(short, tmp_path, number):
    """Interrupted right after the start (libraries take seconds to load): the child must be gone soon after."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(short(f"parent-{number}").as_json()))
    code = (
        "import sys; from pathlib import Path; from trainer.process import run_training; from trainer.spec import TrainSpec;"
        f"run_training(TrainSpec.read(Path({str(path)!r})), lambda e: print(e, flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPO)
    assert parent.stdout is not None
    assert b"libraries" in parent.stdout.readline()
    child = child_of(parent.pid)
    parent.send_signal(number)
    _, told = parent.communicate(timeout=60)
    assert parent.returncode == {signal.SIGTERM: 1, signal.SIGINT: -signal.SIGINT, signal.SIGKILL: -signal.SIGKILL}[number]
    if number == signal.SIGTERM:
        assert b"registry.errors.Paused: The training was stopped before it began." in told
    deadline = time.monotonic() + 15
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_memory_that_torch_cannot_get_is_a_sentence():
    code = (
        "import torch\nfrom trainer.failures import explain\n"
        "try: torch.empty(10**15)\nexcept RuntimeError as error: print(explain(error, 'training').message)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert done.stdout.startswith("Out of memory (during training)")
