"""A version is trained again from its record; sizes of a training are measured. Real trainings on the built-in base, all in one warm process."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from factories import ACTOR, add_advisor, add_dataset, add_version, line, put_files
from typer.testing import CliRunner

from jobs import benchmark as bench
from jobs import reproduce as repeat
from jobs import train as training
from jobs.train import Request, train
from registry import advisors, datasets, events, runs, versions
from registry.artifacts import ArtifactStore, open_store
from registry.db import Database
from registry.errors import Conflict, Invalid, TrainingFailed
from registry.models import AdapterVersion, Evaluation, Event, Example, Run
from trainer.process import WarmTrainer
from trainer.spec import TrainedAdapter

pytestmark = pytest.mark.train
PAIRS = Path(__file__).resolve().parents[2] / "examples" / "elena" / "pairs.jsonl"
QUICK = {"max_steps": 3, "kept_checkpoints": 2, "threads": 1}


def silent(_event: object) -> None:
    """No progress wanted."""


@pytest.fixture(scope="module")
def warm():
    with WarmTrainer() as trainer:
        yield trainer


@dataclass(frozen=True)
class Elena:
    db: Database
    store: ArtifactStore
    home: Path
    warm: WarmTrainer

    def train(self, **more: Any) -> AdapterVersion:
        request = Request("elena", base="tiny", recipe=QUICK, **more)
        return train(self.db, self.store, self.home, request, actor=ACTOR, on_event=silent, trains=self.warm.train).version

    def reproduce(self, ref="elena@1", trains=None, **more):
        told: list[dict[str, Any]] = []
        made = repeat.reproduce(
            self.db, self.home, ref, actor="ann", on_event=lambda e: told.append(dict(e)), trains=trains or self.warm.train, **more
        )
        return made, told

    def state(self):
        """Everything but runs and events."""
        with self.db.engine.connect() as connection:
            tables = ("advisors", "adapter_versions", "version_files", "version_checkpoints", "blobs", "evaluations", "scores", "aliases")
            return {t: [tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {t}"))] for t in tables}


@pytest.fixture(scope="module")
def trained(sqlite_template, tmp_path_factory, tiny_bases, warm):
    """A folder with a catalogue, a store and a home, where elena@1 was trained; every test gets a copy."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(sqlite_template, folder / "catalogue.db")
    (folder / "home").mkdir()
    (folder / "home" / "bases").symlink_to(tiny_bases)
    elena = opened(folder, warm)
    add_advisor(elena.db)
    rows = [[m for m in json.loads(text)["messages"] if m["role"] != "system"] for text in PAIRS.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row) == 2][:16]
    add_dataset(elena.db, [line(row[0]["content"], row[1]["content"]) for row in rows], fraction=0.25)
    elena.train()
    elena.db.dispose()
    return folder


@pytest.fixture(scope="module")
def trained_again(trained, tmp_path_factory, warm):
    """A folder with elena@1's training once more (data, out), which is made once; a test that changes something takes a copy."""
    elena, folder = opened(trained, warm), tmp_path_factory.mktemp("again")
    recorded = repeat.read(elena.db, "elena@1")
    spec = repeat.TrainSpec(recorded.recipe, repeat.find_base(recorded, elena.home, None), recorded.seed, folder / "data", folder / "out")
    repeat._train(elena.db, recorded, spec, silent, warm.train)
    elena.db.dispose()
    return spec


def copied(spec, folder) -> tuple[repeat.TrainSpec, TrainedAdapter]:
    shutil.copytree(spec.out_dir, folder / "out")
    return replace(spec, out_dir=folder / "out"), TrainedAdapter.load(folder / "out")


def opened(folder, warm):
    return Elena(Database(f"sqlite:///{folder}/catalogue.db"), open_store(folder / "artifacts"), folder / "home", warm)


@pytest.fixture
def elena(trained, tmp_path, warm):
    folder = tmp_path / "installation"
    shutil.copytree(trained, folder, symlinks=True)
    found = opened(folder, warm)
    yield found
    found.db.dispose()


def test_a_version_is_reproduced_bit_for_bit_and_another_result_is_said(elena, monkeypatch):
    before = elena.state()

    made, told = elena.reproduce()
    assert told[0]["event"] == "promise"
    assert told[0]["sentence"].startswith("bitwise: on a CPU the same training gives the same files, byte for byte")
    assert (made.promised, made.same, made.differences) == ("bitwise", True, ())
    bits = {c.what: c for c in made.compared if c.counts}
    assert {"adapter_model.safetensors", "adapter_config.json"} < bits.keys()
    assert sum(name.startswith("checkpoint at step") for name in bits) == 2
    with elena.db.read() as session:
        files = {f.path: f.sha256 for f in versions.resolve(session, "elena@1").files}
    assert made.expected["adapter_model.safetensors"] == files["adapter_model.safetensors"]
    assert elena.state() == before
    assert not list((elena.home / "work").glob("reproduce-*/*"))

    def other_seed(spec, on_event):
        adapter = elena.warm.train(replace(spec, seed=spec.seed + 1), on_event)
        packages = {**adapter.environment["packages"], "torch": "9.9"}
        return replace(adapter, environment={**adapter.environment, "packages": packages, "cpu_capability": "NONE"})

    # The same through the command, which ends with 1 and lists what is different about the machine.
    monkeypatch.setattr("trainer.process.run_training", other_seed)
    monkeypatch.setenv("REGISTRY_HOME", str(elena.home))
    monkeypatch.setenv("REGISTRY_DATABASE_URL", elena.db.engine.url.render_as_string(hide_password=False))
    done = CliRunner().invoke(_app(), ["reproduce", "elena@1"])
    assert done.exit_code == 1, done.output
    assert "Promised: bitwise" in done.stdout
    assert "DIFFERS" in done.stdout
    assert next(s.split() for s in done.stdout.splitlines() if s.startswith("packages.torch"))[-1] == "9.9"
    assert "elena@1 did not reproduce (bitwise)" in done.stdout
    assert elena.state() == before
    with elena.db.read() as session:
        assert [e.tag for e in session.scalars(sa.select(Event).order_by(Event.seq))][-2:] == [
            "version:reproduced",
            "version:not_reproduced",
        ]
        found = list(session.scalars(sa.select(Run).where(Run.kind == "evaluation").order_by(Run.id)))
        assert [(r.state, r.spec["format"], r.metrics["reproduced"]) for r in found] == [
            ("succeeded", "reproduction/1", True),
            ("succeeded", "reproduction/1", False),
        ]
        assert not events.audit(session)


def _app():
    from cli import app

    return app


def test_a_gpus_repeat_is_held_against_the_interval_and_not_against_bits(elena, trained_again):
    recorded = repeat.read(elena.db, "elena@1")
    assert recorded.loss is not None
    value, low, high, _ = recorded.loss
    on_gpu = replace(recorded, recipe=replace(recorded.recipe, device="cuda"))
    assert on_gpu.promised == "statistical"
    assert repeat.promise_words(on_gpu).startswith("statistical: on a GPU")
    adapter = TrainedAdapter.load(trained_again.out_dir)
    for shift, same in ((0.0, True), ((high - value) * 0.9, True), ((high - value) * 1.1, False), ((low - value) * 1.1, False)):
        compared = repeat.compare(on_gpu, _shifted(adapter, shift))
        assert all(c.same for c in compared if c.counts) is same, shift
        assert [c.what for c in compared if c.counts] == ["held-out loss"]
    assert recorded.base_loss is not None  # three steps: the interval over a few examples holds the untrained base's loss as well
    assert low <= recorded.base_loss <= high
    with pytest.raises(Invalid, match=r"cannot be told: .* holds the untrained base's .* learned nothing would pass"):
        repeat._require_promise(on_gpu)
    with pytest.raises(Invalid, match=r"was trained on a GPU .* none is found here"):
        repeat._require_promise(replace(on_gpu, base_loss=high + 0.1))


def _shifted(adapter, shift):
    rows = [{**row, "loss": row["loss"] + shift} for row in adapter.metrics["heldout"]["adapter"]]
    return replace(adapter, metrics={**adapter.metrics, "heldout": {**adapter.metrics["heldout"], "adapter": rows}})


def test_what_cannot_be_repeated_is_refused_with_the_reason(elena, tmp_path):
    add_version(elena.db, elena.store)
    with pytest.raises(Invalid, match=r"elena@2 was uploaded: .* nothing to repeat"):
        elena.reproduce("elena@2")
    _version_of_an_older_recipe(elena)
    with pytest.raises(Invalid, match=r"elena@3 was trained by a recipe of the format 'recipe/1'; this release repeats recipe/2"):
        elena.reproduce("elena@3")
    with elena.db.read() as session:
        assert not list(session.scalars(sa.select(Run).where(Run.kind == "evaluation")))


def _version_of_an_older_recipe(elena) -> None:
    from factories import proposal

    with elena.db.transaction() as session:
        advisor = advisors.get(session, "elena", lock=True)
        run = runs.start(session, advisor, "training", {}, actor=ACTOR)
        wanted = proposal(session, advisor, put_files(elena.store, "old"), seed=9, recipe={"format": "recipe/1", "r": 16})
        wanted = replace(wanted, run=run)
        version = versions.begin(session, advisor, wanted, actor=ACTOR)
        versions.finish(session, version.id, wanted.manifest.digest, actor=ACTOR)


def test_a_tampered_record_is_said_and_nothing_is_trained(elena):
    with elena.db.transaction() as session:
        example = session.scalars(sa.select(Example).order_by(Example.id)).first()
        example.messages = [example.messages[0], {**example.messages[1], "content": "Something else."}]

    with pytest.raises(Conflict, match=r"The record of elena@1 does not hold, .* example 0: expected sha256"):
        elena.reproduce(trains=_never)


def test_a_repeat_that_fails_is_recorded_as_failed(elena):
    def fails(_spec, _on_event):
        raise TrainingFailed("The disk is full.")

    with pytest.raises(TrainingFailed):
        elena.reproduce(trains=fails)
    with elena.db.read() as session:
        (run,) = session.scalars(sa.select(Run).where(Run.kind == "evaluation"))
        assert (run.state, run.error) == ("failed", "The disk is full.")
        assert not list(session.scalars(sa.select(Event).where(Event.tag.startswith("version:not"))))


def test_a_local_base_is_asked_for_and_known_by_its_weights(elena, tiny_bases, tmp_path):
    folder = tmp_path / "my-model"
    shutil.copytree(next(p for p in tiny_bases.iterdir() if (p / "config.json").is_file()), folder)
    request = Request("elena", base=str(folder), recipe={**QUICK, "heldout_max_examples": 0})
    train(elena.db, elena.store, elena.home, request, actor=ACTOR, on_event=silent, trains=elena.warm.train)
    with pytest.raises(Invalid, match="local folder local/my-model") as missing:
        elena.reproduce("elena@2")
    assert missing.value.hint == "Give it: --base FOLDER"
    moved = folder.rename(tmp_path / "elsewhere")
    made, _ = elena.reproduce("elena@2", base_folder=moved)
    assert made.same, made.compared
    weights = next(moved.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(Invalid, match="The weights in 'elsewhere' are not those that elena@2 was trained on"):
        elena.reproduce("elena@2", base_folder=moved)


def test_environments_differ_in_named_facts():
    then = {
        "packages": {"torch": "2.13.0", "peft": "1"},
        "threads": 2,
        "code": None,
        "pip_freeze": ["torch==2.13.0", "rich==14.0", "peft==1"],
    }
    now = {"packages": {"torch": "2.14.0", "peft": "1"}, "threads": 2, "code": {"commit": "a"}, "pip_freeze": ["torch==2.14.0", "peft==1"]}
    found = {d.what: (d.recorded, d.here) for d in repeat.environment_differences(then, now)}
    assert found == {
        "packages.torch": ("2.13.0", "2.14.0"),
        "code.commit": (None, "a"),
        "other distributions": ("rich 14.0", "rich none"),
    }
    (torch,) = repeat.package_differences({"packages": {"torch": "0.1", "pytest": pytest.__version__}})
    assert (torch.what, torch.recorded) == ("packages.torch", "0.1")


# --- the same training at the same time, and what is left over of one


def test_a_training_that_another_machine_registers_meanwhile_is_that_one_s_version(elena, trained_again, tmp_path):
    """Two machines train the same; on GPUs their bytes differ. The second to end fails no job, mixes no record, and says what became of its result."""
    there = replace(elena, home=tmp_path / "there")
    there.home.mkdir()
    (there.home / "bases").symlink_to((elena.home / "bases").resolve())
    request = Request("elena", base="tiny", recipe=QUICK, seed=5, job="build-elena-here")
    first = []

    def quick(spec, _on_event):
        return copied(trained_again, spec.out_dir.parent)[1]

    def slow(spec, _on_event):
        first.append(
            train(elena.db, elena.store, there.home, replace(request, job="build-elena-there"), actor=ACTOR, on_event=silent, trains=quick)
        )
        with elena.db.read() as session:
            assert [r.state for r in session.scalars(sa.select(Run).order_by(Run.id))][-2:] == ["running", "succeeded"]
        adapter = copied(trained_again, spec.out_dir.parent)[1]
        weights = adapter.folder / "adapter_model.safetensors"  # other bits, as another card's
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x3c")
        return replace(adapter, files=tuple(training._entry(adapter.folder / f.path) for f in adapter.files))

    made = train(elena.db, elena.store, elena.home, request, actor=ACTOR, on_event=silent, trains=slow)
    assert (made.created, made.version.number, made.version.digest) == (False, 2, first[0].version.digest)
    assert (first[0].created, first[0].version.job) == (True, "build-elena-there")
    with elena.db.read() as session:
        version = versions.resolve(session, "elena@2")
        ours, theirs = session.scalars(sa.select(Run).where(Run.kind == "training").order_by(Run.id.desc()).limit(2)).all()[::-1]
        assert (ours.state, theirs.state, version.run_id) == ("succeeded", "succeeded", theirs.id)
        assert ours.metrics["note"].startswith("the same training was registered meanwhile as elena@2, with other files")
        assert "note" not in theirs.metrics
        assert [e.run_id for e in session.scalars(sa.select(Evaluation).where(Evaluation.version_id == version.id))] == [theirs.id]
        assert versions.manifest_of(version).digest == version.digest
    assert not list((elena.home / "work").glob("*/out"))


def test_a_result_whose_adapters_on_the_way_were_changed_is_made_anew_and_none_enters_past_the_gate(trained_again, tmp_path):
    spec, adapter = copied(trained_again, tmp_path)
    assert training._left_over(spec) is not None
    training._gate(adapter, adapter.base)
    kept = adapter.checkpoints_folder / adapter.checkpoints[0].file.path
    whole = kept.read_bytes()
    kept.unlink()
    assert training._left_over(spec) is None
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert training._left_over(spec) is None
    kept.write_bytes(whole[:-8])
    with pytest.raises(Invalid, match=r"The adapter kept after step \d is refused"):
        training._gate(adapter, adapter.base)
    header = int.from_bytes(whole[:8], "little") + 8
    kept.write_bytes(whole[:header] + bytes(len(whole) - header))  # one that changes nothing yet, as a warm-up's first
    training._gate(adapter, adapter.base)


def test_a_dataset_whose_rows_were_changed_is_refused_before_training(elena):
    with elena.db.transaction() as session:
        example = session.scalars(sa.select(Example).order_by(Example.id)).first()
        example.messages = [example.messages[0], {**example.messages[1], "content": "Something else."}]
    request = Request("elena", base="tiny", recipe=QUICK, seed=8)
    with pytest.raises(Conflict, match=r"is not what its digest stands for: .*example 0: expected sha256"):
        train(elena.db, elena.store, elena.home, request, actor=ACTOR, on_event=silent, trains=_never)


def _never(_spec, _on_event):
    raise AssertionError("trained")


def test_a_reproduction_that_waits_for_another_says_so_and_can_be_given_up(elena):
    recorded = repeat.read(elena.db, "elena@1")

    class GivenUp(Exception):
        pass

    def gives_up(event):
        assert event["name"].startswith("wait")
        raise GivenUp

    with (
        repeat._work_folder(elena.home, recorded, silent),
        pytest.raises(GivenUp),
        repeat._work_folder(elena.home, recorded, gives_up),
    ):
        pass


# --- the benchmark


def test_a_benchmark_measures_extrapolates_and_writes_its_file_whole(elena):
    order = bench.Order(base="tiny", sizes=(4, 8, 16), tokens=60, settings={"threads": 1}, measure_up_to=8, prices={"here": 3.6})
    made = bench.benchmark(elena.home, order, silent, trains=elena.warm.train, warm=lambda: nullcontext(elena.warm))
    assert [(r.examples, r.extrapolated, r.error) for r in made.rows] == [
        (4, False, None),
        (8, False, None),
        (16, True, "two points, no error known"),
    ]
    assert made.cold.tokens / 4 == pytest.approx(60, rel=0.15)
    assert 0 < made.cold.trained_tokens < made.cold.tokens
    assert made.rows[0].advisor_usd["here"] == pytest.approx(made.rows[0].total_cold_s / 1000)
    kept = bench.read(made.path)
    assert (kept["format"], kept["base"]["repo"], kept["recipe"]["epochs"]) == ("benchmark/1", "adapter-registry/tiny-mistral", 1)
    assert [m["examples"] for m in kept["measured"]] == [4, 4, 8]
    assert kept["environment"]["packages"]["peft"]
    assert [p.name for p in made.path.parent.iterdir()] == [made.path.name]
    assert not list((elena.home / "work").glob("benchmark-*"))


class Known:
    """A trainer that has one result for everything."""

    def __init__(self, adapter):
        self.adapter = adapter

    def train(self, _spec, _on_event):
        return self.adapter


def test_a_benchmark_of_an_advisors_pairs_is_a_run_of_that_advisor(elena, trained_again):
    order = bench.Order(base="tiny", sizes=(4,), dataset=("elena", None), settings={"threads": 1}, measure_up_to=4)
    known = Known(TrainedAdapter.load(trained_again.out_dir))
    made = bench.benchmark(elena.home, order, silent, db=elena.db, actor=ACTOR, trains=known.train, warm=lambda: nullcontext(known))
    with elena.db.read() as session:
        (run,) = session.scalars(sa.select(Run).where(Run.kind == "evaluation"))
        assert (run.state, run.spec["format"], run.created_by) == ("succeeded", "benchmark/1", ACTOR)
        assert run.metrics == bench.read(made.path)


def test_a_benchmark_of_an_advisors_pairs_begins_them_again_where_there_are_fewer(elena, tmp_path):
    with elena.db.read() as session:
        train_pairs = datasets.latest(session, advisors.get(session, "elena"))
        count = train_pairs.examples_total - train_pairs.heldout_total
    pairs = bench._advisors_pairs(("elena", None), elena.db, tmp_path)
    assert len(pairs) == count
    folder = bench.write_dataset(tmp_path / "data", pairs, count + 3)
    rows = [json.loads(text) for text in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["messages"] for r in rows] == pairs + pairs[:3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": ()}, "found none"),
        ({"sizes": (1, 50)}, "from 2 to 1,000,000; found 1, 50"),
        ({"tokens": 3}, "8 to 100,000 tokens; found 3"),
        ({"prices": {"x": float("nan")}}, "prices of 0 or more"),
    ],
)
def test_a_benchmark_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(Invalid, match=words):
        bench.check(bench.Order(**change))
