"""Real trainings on the built-in base: the same bytes twice, the right words trained, good data told from bad, and failures that leave nothing."""

import json
import os
import random
import signal
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from registry.adapter_files import base_card_from_config, check_adapter
from registry.errors import Invalid, TrainingFailed
from registry.manifest import digest
from trainer.bases import BaseSpec
from trainer.chat import MISTRAL, PLAIN, packaged_template
from trainer.data import IGNORED, Encoded, encode, encode_all
from trainer.examples import Conversation
from trainer.process import run_training
from trainer.recipe import default_recipe
from trainer.spec import TrainedAdapter, TrainSpec

pytestmark = pytest.mark.train

REPO = Path(__file__).resolve().parents[3]
# The published text of mistralai/Mistral-7B-Instruct-v0.3's tokenizer V3 (mistral-common: "<s>[INST] user message[/INST] assistant message</s>").
OFFICIAL = "<s>[INST] user message[/INST] assistant message</s>[INST] new user message[/INST]"


def silent(_event: object) -> None:
    """No progress wanted."""


def sha(adapter: TrainedAdapter) -> dict[str, str]:
    return {f.path: f.sha256 for f in adapter.files}


@pytest.fixture
def warm(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Train several specs in one process (the libraries take most of the time) and return what each said."""

    def run(*specs: TrainSpec) -> list[dict[str, Any]]:
        paths = []
        for number, spec in enumerate(specs):
            path = tmp_path / f"warm-{number}.json"
            path.write_text(json.dumps(spec.as_json()))
            paths.append(str(path))
        script = Path(__file__).with_name("warm.py")
        done = subprocess.run(
            [sys.executable, str(script), *paths],
            capture_output=True,
            text=True,
            check=True,
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


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
def short(pairs: list[tuple[str, str]], tiny: BaseSpec, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainSpec]:
    """Specs of five steps on a dozen pairs, with dropout, so that the random numbers of the run count too."""
    folder = write_pairs(tmp_path_factory.mktemp("short") / "dataset", pairs[:12], pairs[12:15])

    def make(name: str, *, seed: int = 42, **changes: Any) -> TrainSpec:
        recipe = default_recipe(tiny, None).with_changes(**{"max_steps": 5, "dropout": 0.05, **changes})
        return TrainSpec(recipe, tiny, seed, folder, folder.parent / name)

    return make


def write_pairs(folder: Path, train: Sequence[tuple[str, str]], heldout: Sequence[tuple[str, str]]) -> Path:
    folder.mkdir(parents=True)
    for name, rows in {"train": train, "heldout": heldout}.items():
        lines = []
        for question, answer in rows:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            lines.append(json.dumps({"sha256": digest(messages), "messages": messages}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"format": "dataset/1", "sha256": "sha256:" + "a" * 64}))
    return folder


@pytest.fixture(scope="session")
def cold(short: Callable[..., TrainSpec]) -> tuple[TrainedAdapter, list[dict[str, Any]]]:
    """One run in a fresh process, and its events."""
    events: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "1")
        return run_training(short("cold"), lambda event: events.append(dict(event))), events


def test_a_fresh_process_with_another_hash_seed_makes_the_same_files(cold, short, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    again = run_training(short("again"), silent)
    assert sha(again) == sha(cold[0])
    assert again.metrics == cold[0].metrics


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


def test_warm_runs_other_seeds_nf4_and_failures(cold, short, warm):
    """One process, many runs: what is cheap to check together."""
    nf4 = {"method": "qlora", "quantization": "nf4", "double_quantization": True}
    full = short("full")
    (full.out_dir / "files").mkdir(parents=True)
    (full.out_dir / "files" / "adapter_model.safetensors.part").symlink_to("/dev/full")
    specs = {
        "warm": short("warm"),
        "seed": short("seed", seed=43),
        "nf4": short("nf4", **nf4),
        "nf4 again": short("nf4-again", **nf4),
        "nan": short("nan", learning_rate=1e9, max_steps=30, epochs=10),
        "long": short("long", max_length=60),
        "targets": short("targets", target_modules=["q_proj", "qkv_proj"]),
        "template": short("template", chat_template_sha256="sha256:" + "e" * 64),
        "full": full,
    }
    said = dict(zip(specs, warm(*specs.values()), strict=True))
    done = {name: TrainedAdapter.load(specs[name].out_dir) for name, words in said.items() if words["ok"]}
    assert set(done) == {"warm", "seed", "nf4", "nf4 again"}, said
    assert sha(done["warm"]) == sha(cold[0])
    assert sha(done["seed"])["adapter_model.safetensors"] != sha(cold[0])["adapter_model.safetensors"]
    assert sha(done["nf4"]) == sha(done["nf4 again"])
    assert (done["nf4"].metrics["adapter_dtype"], done["warm"].metrics["adapter_dtype"]) == ("bfloat16", "float32")
    for name in done:  # stock PEFT loads the files, and they do what they did at training
        measured = [row["logprob"] for row in done[name].metrics["canary"]]
        assert said[name]["reloaded"] == pytest.approx(measured, abs=1e-3 if name in {"warm", "seed"} else 0.5)
    for name, words in {
        "nan": "The loss is no number any more at step",
        "long": "at most 60 fit, and an answer is never cut",
        "targets": "has no modules named qkv_proj; only q_proj would be trained",
        "template": "is another than the recipe's",
        "full": "The disk is full (during",
    }.items():
        assert words in said[name]["message"], said[name]
        assert said[name]["hint"]
        assert not (specs[name].out_dir / "result.json").exists()


# --- good data and bad


def shuffled_words(text: str, rng: random.Random) -> str:
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def test_real_answers_are_told_from_shuffled_words(pairs, tiny, tmp_path, warm):
    """The reason for pretraining the built-in base: a random one tells next to no difference (measured)."""
    rng = random.Random(5)  # noqa: S311
    mixed = sorted(pairs)
    rng.shuffle(mixed)
    train, heldout = mixed[:60], mixed[60:84]
    conditions = {"real": train, "words": [(q, shuffled_words(a, rng)) for q, a in train]}
    recipe = default_recipe(tiny, None).with_changes(max_steps=30)
    specs = [
        TrainSpec(recipe, tiny, 42, write_pairs(tmp_path / f"{n}-data", rows, heldout), tmp_path / n) for n, rows in conditions.items()
    ]
    assert all(said["ok"] for said in warm(*specs))
    real, words = (TrainedAdapter.load(spec.out_dir) for spec in specs)
    assert lower_bound(losses(real, "base"), losses(real)) > 0.1  # training on real answers helps
    assert lower_bound(losses(words), losses(real)) > 0.1  # and order is what helps: the same words without it do not


def losses(adapter: TrainedAdapter, name: str = "adapter") -> list[float]:
    return [row["loss"] for row in adapter.metrics["heldout"][name]]


def lower_bound(worse: list[float], better: list[float]) -> float:
    """Mean paired difference minus two standard errors (nats per token)."""
    differences = [w - b for w, b in zip(worse, better, strict=True)]
    return statistics.mean(differences) - 2 * statistics.stdev(differences) / len(differences) ** 0.5


# --- ends that are no end


def test_one_conversation_is_refused_with_a_sentence(tiny, pairs, tmp_path):
    spec = TrainSpec(default_recipe(tiny, None), tiny, 1, write_pairs(tmp_path / "data", pairs[:1], []), tmp_path / "out")
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


def test_a_killed_child_leaves_no_result_and_is_explained(short):
    spec = short("killed", max_steps=2000, epochs=10_000)

    def kill(event: Any) -> None:
        if event["event"] == "step" and event["step"] == 2:
            os.kill(child_of(os.getpid()), signal.SIGKILL)

    with pytest.raises(TrainingFailed, match=r"was killed \(signal 9\) at step \d+ of 2000; likely the machine ran out of memory"):
        run_training(spec, kill)
    assert not (spec.out_dir / "result.json").exists()


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
    parent.communicate(timeout=60)
    assert parent.returncode == {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT, signal.SIGKILL: -signal.SIGKILL}[number]
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
