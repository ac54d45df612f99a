"""Versions of both kinds, the job that made them, and the adapters kept on the way of a training."""

import pytest
from factories import ACTOR, add_advisor, add_dataset, line, proposal, put_files
from sqlalchemy import func, select

from registry import advisors, versions
from registry.db import Database
from registry.errors import Invalid
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
