"""Versions of both kinds, the job that made them, and the adapters kept on the way of a training."""

import pytest
import sqlalchemy as sa
from factories import ACTOR, add_advisor, add_dataset, line, proposal, put_files
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from registry import advisors, bases, datasets, runs, verification, versions
from registry.db import Database
from registry.errors import Conflict, Invalid
from registry.manifest import FileEntry, digest_bytes
from registry.models import AdapterVersion, Blob

ROW = {"step": 10, "epoch": 0.5, "learning_rate": 1e-4, "sha256": digest_bytes(b"early"), "size": 5}


def begun(db: Database, files, job=None, *, force=False, seed=1):
    """Begin a version of elena's dataset on behalf of a job; returns (id, digest)."""
    with db.transaction() as session:
        advisor = advisors.get(session, "elena", lock=True)
        wanted = proposal(session, advisor, files, seed=seed)
        wanted = versions.Proposal(wanted.dataset, wanted.persona_sha256, wanted.base, wanted.recipe, wanted.seed, files, None, job)
        version = versions.begin(session, advisor, wanted, actor=ACTOR, force=force)
        return version.id, wanted.manifest.digest


@pytest.fixture
def elena(db):
    add_advisor(db)
    add_dataset(db, [line("What now?"), line("And then?")])


def test_a_job_that_is_taken_up_again_makes_one_version_even_when_it_was_to_train_anew(db, store, elena):
    files = put_files(store, "a")
    first, sha256 = begun(db, files, "build-elena-1", force=True)
    assert begun(db, files, "build-elena-1", force=True)[0] == first  # killed while pending
    with db.transaction() as session:
        versions.finish(session, first, sha256, actor=ACTOR)
    assert begun(db, files, "build-elena-1", force=True)[0] == first  # killed after it was ready, before anyone was told
    other, _ = begun(db, files, "build-elena-2", force=True)
    assert other != first
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(AdapterVersion)) == 2
        assert versions.of_job(session, "build-elena-1").id == first
        assert versions.of_job(session, "build-elena-3") is None


def test_another_job_of_the_same_training_takes_what_is_there(db, store, elena):
    files = put_files(store, "a")
    first, sha256 = begun(db, files, "build-elena-1")
    with db.transaction() as session:
        versions.finish(session, first, sha256, actor=ACTOR)
    assert begun(db, files, "build-elena-2")[0] == first
    with db.read() as session:
        assert session.get_one(AdapterVersion, first).job == "build-elena-1"


def test_a_full_fine_tune_is_a_kind_of_its_own(db, store, elena):
    entries = tuple(
        FileEntry(name, blob.digest, blob.size) for name in ("model.safetensors", "config.json") if (blob := store.put_bytes(name.encode()))
    )
    made, _ = begun(db, entries)
    adapter, _ = begun(db, put_files(store, "a"), seed=2)
    with db.read() as session:
        assert session.get_one(AdapterVersion, made).kind == "full"
        assert session.get_one(AdapterVersion, adapter).kind == "lora"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("model.safetensors",), "A full fine-tune needs model.safetensors and config.json; missing: config.json"),
        (("adapter_config.json",), "An adapter needs adapter_model.safetensors and adapter_config.json"),
        (("model.safetensors", "config.json", "adapter_config.json"), "holds model.safetensors, config.json, README.md and nothing else"),
        ((), "An adapter needs"),
    ],
)
def test_files_that_make_neither_kind_are_refused(names, words):
    with pytest.raises(Invalid, match=words):
        versions.check_file_names([FileEntry(name, digest_bytes(b""), 0) for name in names])


def test_checkpoints_are_kept_with_their_bytes_and_a_rerun_brings_its_own(db, store, elena):
    store.put_bytes(b"early")
    made, sha256 = begun(db, put_files(store, "a"), "build-elena-1")
    with db.transaction() as session:
        versions.keep_checkpoints(session, session.get_one(AdapterVersion, made), [ROW, ROW | {"step": 20}])
    begun(db, put_files(store, "b"), "build-elena-1")  # another attempt: the rows of the dead one go
    with db.read() as session:
        assert session.get_one(AdapterVersion, made).checkpoints == []
    made, sha256 = begun(db, put_files(store, "a"), "build-elena-1")
    with db.transaction() as session:
        versions.keep_checkpoints(session, session.get_one(AdapterVersion, made), [ROW | {"step": 20}, ROW])
        versions.finish(session, made, sha256, actor=ACTOR)
    with db.read() as session:
        assert [(c.step, c.epoch, c.size) for c in versions.resolve(session, "elena@1").checkpoints] == [(10, 0.5, 5), (20, 0.5, 5)]
        assert session.get(Blob, ROW["sha256"]).size == 5


def test_who_takes_over_a_pending_version_makes_all_of_its_record_anew(db, store, elena):
    first, _ = begun(db, put_files(store, "a"), "build-elena-1")
    with db.transaction() as session:  # another dataset by now, written with another persona; another base, recipe, seed and kind
        session.execute(sa.text("INSERT INTO personas (advisor_id, number, sha256, text, created_at, created_by) SELECT advisor_id, 2, :s, 'x', created_at, 'x' FROM personas"), {"s": digest_bytes(b"x")})  # fmt: skip
    add_dataset(db, [line("Another?")])
    files = tuple(
        FileEntry(name, blob.digest, blob.size) for name in ("model.safetensors", "config.json") if (blob := store.put_bytes(name.encode()))
    )
    with db.transaction() as session:
        advisor = advisors.get(session, "elena", lock=True)
        dataset = datasets.latest(session, advisor)
        base = bases.ensure(session, bases.BaseFacts("other/base", "b" * 40, "hub"))
        wanted = versions.Proposal(dataset, dataset.persona.sha256, base, {"r": 64}, 7, files, None, "build-elena-1")
        version = versions.begin(session, advisor, wanted, actor="somebody else")
        assert (version.id, version.number) == (first, 1)
        versions.finish(session, version.id, wanted.manifest.digest, actor=ACTOR)
    with db.read() as session:
        version = versions.resolve(session, "elena@1")
        assert versions.manifest_of(version).digest == version.digest == wanted.manifest.digest
        assert [line_ for line_ in verification.verify_record(session, version) if not line_.startswith("persona 2")] == []
        assert (version.kind, version.recipe, version.seed, version.base_model.repo) == ("full", {"r": 64}, 7, "other/base")
        assert (version.dataset.sha256, version.persona.number, version.created_by) == (dataset.sha256, 2, "somebody else")
        assert version.spec_digest == wanted.spec_digest


LATER = "UPDATE adapter_versions SET state = 'withdrawn', withdrawn_at = created_at, withdrawn_reason = 'old' WHERE number = 1"
FROZEN = [
    *(
        f"UPDATE adapter_versions SET {column} = {value}"
        for column, value in {
            "digest": "spec_digest",
            "spec_digest": "digest",
            "dataset_id": "2",
            "base_model_id": "2",
            "persona_id": "2",
            "recipe": "'{}'",
            "recipe_digest": "digest",
            "seed": "99",
            "kind": "'full'",
            "number": "number + 10",
            "created_by": "'x'",
            "run_id": "1",
            "job": "'j' || id",
            "ready_at": "NULL",
            "withdrawn_reason": "'x'",
        }.items()
    ),
    "UPDATE adapter_versions SET state = 'pending'",
    "UPDATE adapter_versions SET state = 'withdrawn'",
    "UPDATE adapter_versions SET state = 'withdrawn', withdrawn_at = created_at",
    "DELETE FROM adapter_versions",
    "UPDATE version_files SET size = 1",
    "DELETE FROM version_files",
    "INSERT INTO version_files SELECT version_id, 'README.md', sha256, size FROM version_files WHERE path = 'adapter_config.json'",
    "UPDATE version_checkpoints SET step = 11",
    "DELETE FROM version_checkpoints",
    "INSERT INTO version_checkpoints SELECT version_id, 99, epoch, learning_rate, sha256, size FROM version_checkpoints",
    "UPDATE version_files SET version_id = (SELECT id FROM adapter_versions WHERE number = 2) WHERE path = 'adapter_config.json'",
    "UPDATE runs SET error = 'x'",
    "UPDATE runs SET state = 'running'",
    "DELETE FROM runs",
    "UPDATE chain_head SET hash = 'x'",
    "UPDATE chain_head SET seq = seq - 1",
    "DELETE FROM chain_head",
]


CLOSED = "immutable once|fixed once|stays|no other way|not changed|forward only|keeps its head"  # the triggers' words, not a foreign key's


def test_the_database_itself_closes_what_is_over(db, store, elena):
    made, sha256 = begun(db, put_files(store, "a"))
    with db.transaction() as session:
        versions.keep_checkpoints(session, session.get_one(AdapterVersion, made), [ROW])
        versions.finish(session, made, sha256, actor=ACTOR)
        run = runs.start(session, advisors.get(session, "elena"), "training", {}, actor=ACTOR)
        runs.fail(session, run.id, "the first words")
        runs.fail(session, run.id, "later words")
        with pytest.raises(Conflict, match="was recorded as failed meanwhile: the first words"):
            runs.succeed(session, run.id, environment={}, timings={}, metrics={})
    for fault in FROZEN:
        with pytest.raises(IntegrityError, match=CLOSED), db.engine.begin() as connection:
            connection.exec_driver_sql(fault)
    with db.engine.begin() as connection:
        connection.exec_driver_sql(LATER)
    for fault in ("UPDATE adapter_versions SET state = 'ready', withdrawn_at = NULL, withdrawn_reason = NULL", "UPDATE adapter_versions SET withdrawn_reason = 'x'"):  # fmt: skip
        with pytest.raises(IntegrityError, match=CLOSED), db.engine.begin() as connection:
            connection.exec_driver_sql(fault)
    begun(db, put_files(store, "b"), seed=2)  # what is pending may still be thrown away
    with db.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM version_files WHERE version_id = (SELECT id FROM adapter_versions WHERE state = 'pending')")
        connection.exec_driver_sql("DELETE FROM adapter_versions WHERE state = 'pending'")


def test_a_run_of_the_same_training_on_another_machine_is_not_taken_for_dead(db, elena, tmp_path):
    spec, here, there = {"key": "a"}, runs.worker_of(tmp_path / "here"), runs.worker_of(tmp_path / "there", "build-elena-1")
    with db.transaction() as session:
        advisor = advisors.get(session, "elena")
        ours, theirs = (runs.start(session, advisor, "training", spec, actor=ACTOR, worker=w).id for w in (here, there))

        def states():
            return [session.get_one(runs.Run, run).state for run in (ours, theirs)]

        runs.end_dead(session, spec, runs.worker_of(tmp_path / "here", "build-elena-2"))
        assert states() == ["failed", "running"]
        runs.end_dead(session, spec, runs.worker_of(tmp_path / "elsewhere", "build-elena-1"))  # the job was taken up by another machine
        assert states() == ["failed", "failed"]
