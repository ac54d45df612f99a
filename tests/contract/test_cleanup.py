"""`registry cleanup` on real homes with a real catalogue and store: what it removes, what it refuses, and that it can be interrupted."""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import factories
import pytest
from filelock import FileLock
from huggingface_hub import constants

from jobs import benchmark, cleanup
from jobs.cleanup import Wish, clean
from registry.artifacts import open_store
from registry.db import Database
from registry.errors import Conflict, Invalid
from registry.manifest import FileEntry
from trainer import borrowed
from trainer.bases import BaseSpec
from trainer.recipe import default_recipe
from trainer.spec import TrainedAdapter

REPO = "org/model"
OURS, THEIRS = "a" * 40, "b" * 40
KEY = "0123456789abcdef01234567"


@pytest.fixture
def db(make_sqlite):
    database = Database(make_sqlite())
    yield database
    database.dispose()


@pytest.fixture
def guest(tmp_path, monkeypatch, db):
    """A home on a borrowed machine: a hub cache, temporary folders and this program's code of their own; the registry lies elsewhere."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)  # a cleanup sets it for its process
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "code").mkdir()
    factories.add_advisor(db)
    factories.add_dataset(db, [factories.line("Q1"), factories.line("Q2")])
    return home


def run(db, store, home, **wish):
    return clean(db, store, home, Wish(**wish), code=home.parent / "code")


def download(home: Path, revision: str, files: dict[str, bytes], *, ref: str | None = None) -> None:
    """What huggingface_hub leaves in its cache: blobs, links to them, a ref, a lock."""
    folder = home.parent / "hub" / "models--org--model"
    for name, data in files.items():
        etag = f"etag-{len(data)}"
        blob, link = folder / "blobs" / etag, folder / "snapshots" / revision / name
        for parent in (blob.parent, link.parent, folder.parent / ".locks" / folder.name):
            parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(Path("../../blobs") / etag)
        (folder.parent / ".locks" / folder.name / f"{etag}.lock").touch()
    if ref:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(revision)


def fetched(home: Path, revision: str = OURS, torn: str | None = None, **files: bytes) -> Path:
    """Fetch a model as resolve_base and the trainer do."""
    with borrowed.fetching(home, REPO):
        download(home, revision, {name.replace("_", "."): data for name, data in files.items()}, ref="main")
        if torn:
            (home.parent / "hub" / "models--org--model" / "blobs" / torn).write_bytes(b"half")
    return home.parent / "hub" / "models--org--model"


def trained_here(home: Path, db, store) -> None:
    borrowed.note_advisor(home, "elena")
    factories.add_version(db, store)


def work_folder(home: Path, *, state: bool = False, result: bool = False) -> Path:
    work = home / "work" / KEY
    (work / "out").mkdir(parents=True)
    (work / "out" / "training.log").write_text("a line\n")
    if state:
        (work / "out" / "state").mkdir()
        (work / "out" / "state" / "state.pt").write_bytes(b"x")
    if result:
        (work / "out" / "result.json").write_text("{}")
    return work


def finished(home: Path, version, files: list[tuple[str, str, int]]) -> Path:
    """The folder of a training of this version's spec, with the record of a complete result."""
    base = BaseSpec("hub", "org/model", OURS)
    entries = tuple(FileEntry(*file) for file in files)
    adapter = TrainedAdapter(home, entries, base, default_recipe(base, None), 42, {}, {}, {})
    work = work_folder(home, result=True)
    (work / "out" / "result.json").write_text(json.dumps(adapter.as_json()))
    return work.rename(home / "work" / version.spec_digest.removeprefix("sha256:")[:24])


def test_all_that_this_tool_put_there_goes_and_the_sizes_prove_it(guest, db, store):
    trained_here(guest, db, store)
    model = fetched(guest, torn="torn.incomplete", config_json=b"{}", model_safetensors=b"w" * 5000)
    work_folder(guest)
    base = guest / "bases" / "tiny-mistral-0123456789ab"
    base.mkdir(parents=True)
    (base / "model.safetensors").write_bytes(b"b" * 100)
    package = guest.parent / "code" / "trainer"
    (package / "__pycache__").mkdir(parents=True)
    (package / "loop.py").write_text("")
    (package / "__pycache__" / "loop.cpython-311.pyc").write_bytes(b"c" * 50)
    (package / "__pycache__" / "foreign.cpython-311.pyc").write_bytes(b"not ours")
    leftover = guest.parent / "tmp" / "registry-spec-abc"
    leftover.mkdir()
    os.utime(leftover, (0, 0))
    (guest.parent / "tmp" / "registry-spec-new").mkdir()

    planned = run(db, store, guest, dry_run=True)
    assert model.is_dir()
    assert planned.after is None
    done = run(db, store, guest)
    assert (done.versions_checked, done.before, done.after) == (1, planned.before, 0)
    assert done.before > 5000 + 100 + 50
    assert {item.kind for item in done.items} == {"model cache", "training", "built-in base", "temporary folders", "bytecode"}
    assert all(item.after == 0 for item in done.items)
    assert not (guest.parent / "hub" / "models--org--model").exists()
    assert not guest.exists()  # nothing else lay in it
    assert (package / "loop.py").exists()
    assert [p.name for p in (package / "__pycache__").iterdir()] == ["foreign.cpython-311.pyc"]
    assert [p.name for p in (guest.parent / "tmp").iterdir()] == ["registry-spec-new"]
    again = run(db, store, guest)
    assert (again.before, again.after, again.kept) == (0, 0, ())


def test_what_was_in_the_cache_before_stays(guest, db, store):
    download(guest, OURS, {"config.json": b"{}"})
    download(guest, THEIRS, {"config.json": b"{}", "model.safetensors": b"t" * 700}, ref="main")
    model = fetched(guest, model_safetensors=b"w" * 5000)
    download(guest, "c" * 40, {"tokenizer.json": b"w" * 5000})  # another tool, later, whose file has the same bytes
    done = run(db, store, guest)
    assert sorted(p.name for p in (model / "snapshots" / OURS).iterdir()) == ["config.json"]
    assert (model / "snapshots" / THEIRS / "model.safetensors").read_bytes() == b"t" * 700
    assert (model / "snapshots" / ("c" * 40) / "tokenizer.json").stat().st_size == 5000
    assert not (model / "snapshots" / OURS / "model.safetensors").is_symlink()
    assert done.after == 0


def test_what_the_owner_downloads_of_the_same_revision_later_stays(guest, db, store):
    model = fetched(guest, config_json=b"{}", tokenizer_json=b"t" * 300)
    download(guest, OURS, {"model.safetensors": b"w" * 5000, "copy.json": b"u" * 300})  # the owner's; one has the bytes of our tokenizer
    run(db, store, guest)
    snapshot = model / "snapshots" / OURS
    assert sorted(p.name for p in snapshot.iterdir()) == ["copy.json", "model.safetensors"]
    assert (snapshot / "model.safetensors").read_bytes() == b"w" * 5000
    assert (snapshot / "copy.json").stat().st_size == 300
    assert sorted(p.name for p in (model / "blobs").iterdir()) == ["etag-300", "etag-5000"]
    assert borrowed.read(guest).models == ()


def test_a_download_of_one_commit_does_not_claim_another_ones_files(guest, db, store):
    with borrowed.fetching(guest, REPO, OURS):
        download(guest, OURS, {"config.json": b"{}"})
        download(guest, THEIRS, {"tokenizer.json": b"t" * 20})
    run(db, store, guest)
    snapshots = guest.parent / "hub" / "models--org--model" / "snapshots"
    assert [p.name for p in snapshots.iterdir()] == [THEIRS]
    assert (snapshots / THEIRS / "tokenizer.json").stat().st_size == 20


def test_names_are_written_down_while_a_download_runs(guest, monkeypatch):
    monkeypatch.setattr(borrowed, "WATCH_S", 0.01)
    with borrowed.fetching(guest, REPO, OURS):
        download(guest, OURS, {"shard-1.safetensors": b"w" * 50})
        deadline = time.monotonic() + 10
        while not borrowed.read(guest).models and time.monotonic() < deadline:
            time.sleep(0.01)
        (model,) = borrowed.read(guest).models
        assert model.paths == ("blobs/etag-50", f"snapshots/{OURS}/shard-1.safetensors")


def test_the_trainer_finds_the_home_of_its_work_folder(guest):
    work = work_folder(guest)
    assert borrowed.home_above(work / "out") is None
    with borrowed.in_use(guest):
        assert borrowed.home_above(work / "out") == guest
    with borrowed.fetching(None, REPO):  # a training elsewhere is nobody's guest
        download(guest, OURS, {"config.json": b"{}"})
    assert borrowed.read(guest).models == ()


def test_nothing_is_cleaned_while_a_command_works_and_none_starts_meanwhile(guest, db, store, monkeypatch):
    work = work_folder(guest)
    with borrowed.in_use(guest), borrowed.in_use(guest), pytest.raises(Conflict, match="A command of this program works in"):
        run(db, store, guest)
    (guest / borrowed.USERS / "dead.lock").touch()  # its process was killed
    entered = threading.Event()

    def start():
        with borrowed.in_use(guest):
            entered.set()

    starter = threading.Thread(target=start)
    real = borrowed.read

    def looked(home):
        starter.start()
        assert not entered.wait(0.2)  # it waits
        return real(home)

    monkeypatch.setattr(cleanup.borrowed, "read", lambda home: looked(home) if starter.ident is None else real(home))
    run(db, store, guest)  # removes the home while the other waits at its door
    starter.join(10)
    assert entered.is_set()
    assert not work.exists()
    assert [p.name for p in (guest / borrowed.USERS).iterdir()] == []


def test_the_record_names_nothing_outside_a_models_folder(guest, db, store):
    model = {"repo": REPO, "cache": str(guest.parent / "hub"), "paths": ["snapshots/../../../diary.txt"]}
    (guest / borrowed.FILE).write_text(json.dumps({"format": borrowed.FORMAT, "models": [model], "advisors": []}))
    with pytest.raises(Invalid, match="is no file of a model in the hub's cache"):
        run(db, store, guest)


def test_links_are_never_followed(guest, db, store, tmp_path):
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "thesis.txt").write_text("mine")
    work = work_folder(guest)
    (work / "out" / "link").symlink_to(treasure)
    (guest / "bases").symlink_to(treasure)
    fetched(guest, config_json=b"{}").rename(tmp_path / "moved")
    (tmp_path / "hub" / "models--org--model").symlink_to(treasure)
    done = run(db, store, guest)
    assert (treasure / "thesis.txt").read_text() == "mine"
    assert not work.exists()
    assert [item.note for item in done.items if item.kind == "model cache"] == ["its folder in the cache is a link, which is not followed"]
    assert ("bases", "a link, which is not followed") in [(kept.name, kept.why) for kept in done.kept]


def test_a_damaged_version_is_not_safe_and_nothing_is_touched(guest, db, store):
    trained_here(guest, db, store)
    model = fetched(guest, model_safetensors=b"w" * 50)
    with db.read() as session:
        from registry import versions

        digest = versions.resolve(session, "elena@1").files[0].sha256
    factories.damage(store, digest)
    with pytest.raises(Conflict, match=r"Not everything that was trained here is safe in .*elena@1 adapter_config.json: .*damaged"):
        run(db, store, guest)
    assert (model / "snapshots" / OURS / "model.safetensors").is_file()


def test_another_catalogue_than_the_trainings_is_noticed(guest, db, store):
    borrowed.note_advisor(guest, "marcus")
    with pytest.raises(Conflict, match="this catalogue does not know marcus"):
        run(db, store, guest)


def test_a_registry_on_this_machine_is_never_removed(guest, db):
    inside = open_store(guest / "artifacts")
    trained_here(guest, db, inside)
    work_folder(guest)
    with pytest.raises(Conflict, match="The artifact store of this installation lies"):
        run(db, inside, guest)
    done = run(db, inside, guest, registry_stays=True)
    assert not (guest / "work").exists()
    assert ("artifacts", "the artifact store") in [(kept.name, kept.why) for kept in done.kept]
    assert factories.put_files(inside, "elena 1")


@pytest.mark.parametrize(
    ("left", "words"), [({"state": True}, "was stopped and can be gone on with"), ({"result": True}, "is finished but not registered")]
)
def test_a_training_that_would_be_lost_is_given_up_only_on_request(guest, db, store, left, words):
    work = work_folder(guest, **left)
    with pytest.raises(Conflict, match=f"1 training would be lost: {KEY} {words}"):
        run(db, store, guest)
    assert work.is_dir()
    run(db, store, guest, discard=True)
    assert not work.exists()


def test_a_registered_training_whose_folder_stayed_is_no_loss(guest, db, store):
    version = factories.add_version(db, store)
    work = finished(guest, version, [(f.path, f.sha256, f.size) for f in version.files if f.path != "README.md"])
    assert run(db, store, guest).after == 0
    assert not work.exists()


def test_a_forced_training_is_lost_although_an_older_version_has_its_spec(guest, db, store):
    version = factories.add_version(db, store)
    work = finished(guest, version, [("adapter_model.safetensors", "sha256:" + "9" * 64, 10)])
    with pytest.raises(Conflict, match=f"1 training would be lost: {work.name} is finished but not registered"):
        run(db, store, guest)
    (work / "out" / "result.json").unlink()
    (work / "out" / "state").mkdir()
    (work / "out" / "state" / "state.pt").write_bytes(b"x")
    with pytest.raises(Conflict, match=f"1 training would be lost: {work.name} was stopped and can be gone on with"):
        run(db, store, guest)
    assert work.is_dir()


def test_a_running_training_is_left_alone_and_a_dead_one_is_not(guest, db, store):
    work = work_folder(guest)
    with FileLock(work.with_suffix(".lock")), pytest.raises(Conflict, match="A training runs in"):
        run(db, store, guest)
    assert work.is_dir()
    run(db, store, guest)
    assert not work.exists()


@pytest.mark.parametrize("name", ["benchmark-x1_2", f"reproduce-{KEY}", "plan-ab_c"])
def test_other_work_folders_are_left_alone_while_they_are_locked(guest, db, store, name):
    folder = guest / "work" / name
    folder.mkdir(parents=True)
    with FileLock(f"{folder}.lock"), pytest.raises(Conflict, match="A training runs in"):
        run(db, store, guest)
    assert folder.is_dir()
    run(db, store, guest)
    assert not (guest / "work").exists()


def test_a_benchmark_holds_the_lock_of_its_folder_and_takes_it_away(guest, db, store):
    folder = guest / "work" / "benchmark-x1y2"
    folder.mkdir(parents=True)
    with benchmark._locked(str(folder)), pytest.raises(Conflict, match="A training runs in"):
        run(db, store, guest)
    assert [p.name for p in (guest / "work").iterdir()] == ["benchmark-x1y2"]


def test_what_is_not_known_stays_and_is_named(guest, db, store):
    (guest / "work" / "notes").mkdir(parents=True)
    (guest / "diary.txt").write_text("dear diary")
    done = run(db, store, guest)
    assert {kept.name: kept.why for kept in done.kept} == {
        "diary.txt": "not known to this program",
        "work": "folders that no training of this program made",
    }
    assert (guest / "work" / "notes").is_dir()


def test_an_interrupted_cleanup_is_finished_by_the_next(guest, db, store, monkeypatch):
    model = fetched(guest, config_json=b"{}", model_safetensors=b"w" * 50)
    work = work_folder(guest)
    real = Path.unlink
    calls = iter(range(100))

    def torn(self, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        real(self, **options)

    monkeypatch.setattr(Path, "unlink", torn)
    with pytest.raises(KeyboardInterrupt):
        run(db, store, guest)
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(guest.parent / "hub"))
    assert borrowed.read(guest).models
    run(db, store, guest)
    assert not model.exists()
    assert not work.exists()


def test_a_record_that_makes_no_sense_stops_it(guest, db, store):
    (guest / borrowed.FILE).write_text(json.dumps({"format": "borrowed/9"}))
    with pytest.raises(Invalid, match=r"is not the record of what this tool put here: its format is 'borrowed/9'"):
        run(db, store, guest)
    (guest / borrowed.FILE).write_text("[]")
    with pytest.raises(Invalid, match="is not the record"):
        run(db, store, guest)
