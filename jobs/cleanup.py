"""`registry cleanup`: leaves a borrowed machine as it was found, after making sure that nothing of value lies only there.

1. Nothing is touched before all is checked: the registry lies elsewhere; no command of this home works, and none starts meanwhile; no finished or half-done
   training would be lost; and every ready version of every advisor that was trained here is whole in the registry's store, each file read again and hashed.
2. Removed is only what this tool put there and knows: the files that its own downloads brought into the hub's cache (trainer.borrowed has their names), training
   folders, built-in bases, its own bytecode, its temporary folders. No symbolic link is followed, and the catalogue and the store are never among it.
3. Sizes are measured before and after. A cleanup that was interrupted can be run again.

What it does not know: caches of the driver and of other libraries (CUDA's, Triton's, hf_xet's), other homes of this tool on the same machine, and idle workers.
"""

import importlib.util
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from registry import advisors, versions
from registry.artifacts import ArtifactStore, Problem
from registry.db import Database
from registry.errors import Conflict, NotFound, RegistryError
from registry.models import AdapterVersion, Advisor, VersionCheckpoint
from trainer import borrowed
from trainer.borrowed import FetchedModel
from trainer.spec import RESULT_FILE, STATE_FOLDER, TrainedAdapter

PACKAGES = ("baml_client", "commands", "evaluation", "jobs", "lineage", "migrations", "pipeline", "registry", "trainer")
MODULES = ("cli.py",)
TEMPORARY = ("registry-spec-*",)  # trainer.process makes them; a killed one leaves them
TEMPORARY_AGE = 3600.0  # seconds: a process reads its spec at once, so an hour later it belongs to nobody
_TRAINING = re.compile(r"(reproduce-)?[0-9a-f]{24}|(benchmark|plan)-\w+")
_BASE = re.compile(r"\.?tiny-mistral-[0-9a-f]{12}(-\w+)?(\.lock)?")


@dataclass(frozen=True)
class Wish:
    """How to clean: only say what would happen; although the registry lies in this home and stays; giving up trainings that are not registered yet."""

    dry_run: bool = False
    registry_stays: bool = False
    discard: bool = False


@dataclass(frozen=True)
class Item:
    """One thing that is removed: `paths` are exactly the files and folders of it. Sizes in bytes, links counted as links; `after` is None in a dry run."""

    kind: str
    name: str
    paths: tuple[Path, ...] = field(repr=False)
    files: int = 0
    before: int = 0
    after: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class Kept:
    """Something in the home that stays, its size in bytes, and why."""

    name: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Cleaned:
    """What was removed (or would be), what stays, and how many versions were read again in the store first."""

    items: tuple[Item, ...]
    kept: tuple[Kept, ...]
    versions_checked: int
    dry_run: bool

    @property
    def before(self) -> int:
        """Bytes of all items before."""
        return sum(item.before for item in self.items)

    @property
    def after(self) -> int | None:
        """Bytes of all items after; None in a dry run."""
        return None if self.dry_run else sum(item.after or 0 for item in self.items)


def clean(db: Database, store: ArtifactStore, home: Path, wish: Wish, *, code: Path | None = None) -> Cleaned:
    """Check, remove, and prove it. `code` is the folder this program's packages lie in (default: where they were loaded from).

    Raises Conflict where something would be lost or a command works here, Unavailable where the registry cannot be asked, Invalid for a damaged record, and OSError.
    """
    sys.dont_write_bytecode = sys.dont_write_bytecode or not wish.dry_run  # or this process would put back what it removes
    if not wish.registry_stays:
        _require_elsewhere(db, store, home)
    with borrowed.alone(home, tidy=not wish.dry_run), ExitStack() as locks:
        remembered = borrowed.read(home)
        works = _idle_trainings(home, locks)
        if not wish.discard:
            _require_registered(db, works)
        checked = _require_safe(db, store, remembered.advisors)
        items = tuple(_measured(item) for item in _items(home, works, remembered.models, code or Path(__file__).resolve().parent.parent))
        if not wish.dry_run:
            items = tuple(_remove(item) for item in items)
            _forget(home, remembered.models)
        return Cleaned(items, tuple(_kept(home, items if wish.dry_run else ())), checked, wish.dry_run)


def _require_elsewhere(db: Database, store: ArtifactStore, home: Path) -> None:
    """Raises Conflict where the catalogue or the store lies in this home: when the machine is given back, they would be gone."""
    url = make_url(db.url)
    places = {"catalogue": url.database if url.get_backend_name() == "sqlite" else None, "artifact store": store.location}
    inside = [thing for thing, place in places.items() if place and "://" not in place and _within(Path(place), home)]
    if inside:
        raise Conflict(
            f"The {' and the '.join(inside)} of this installation {'lie' if len(inside) > 1 else 'lies'} in {home}, on this machine: whoever gives it back loses every version.",
            hint="Move the registry to Postgres and S3 first, or pass --registry-stays where the machine stays yours: they are then left alone.",
        )


def _within(place: Path, home: Path) -> bool:
    return place.expanduser().resolve().is_relative_to(home.resolve())


def _idle_trainings(home: Path, locks: ExitStack) -> list[Path]:
    """The training folders of this home, each with its lock held until `locks` ends. Raises Conflict where one is at work."""
    folder = home / "work"
    if folder.is_symlink() or not folder.is_dir():
        return []
    names = sorted({p.name.removesuffix(".lock") for p in folder.iterdir() if _TRAINING.fullmatch(p.name.removesuffix(".lock"))})
    for name in names:
        lock = FileLock(folder / f"{name}.lock", timeout=0)
        try:
            locks.enter_context(lock)
        except Timeout:
            raise Conflict(
                f"A training runs in {folder / name}.", hint="Wait for it, or stop it (Ctrl-C, SIGTERM), then clean up."
            ) from None
    builds = home / "bases"
    for path in sorted(builds.glob("tiny-mistral-*.lock")) if not builds.is_symlink() else []:
        try:
            locks.enter_context(FileLock(path, timeout=0))
        except Timeout:
            raise Conflict("The built-in base is being made.", hint="Wait for it; then clean up.") from None
    return [folder / name for name in names]


def _require_registered(db: Database, works: Sequence[Path]) -> None:
    """Raises Conflict where a training is finished and not registered, or was stopped on its way and could be gone on with."""
    lost = [line for work in works if (line := _would_be_lost(db, work)) is not None]
    if lost:
        raise Conflict(
            f"{len(lost)} training{'s' if len(lost) > 1 else ''} would be lost: {'; '.join(lost)}.",
            hint="Run the same train command again to end and register it, or pass --discard to give it up.",
        )


def _would_be_lost(db: Database, work: Path) -> str | None:
    key = work.name
    state, result = work / "out" / STATE_FOLDER, work / "out" / RESULT_FILE
    if not key.isalnum() or work.is_symlink() or not (result.is_file() or (state.is_dir() and any(state.iterdir()))):
        return None
    if not result.is_file():  # whatever is registered of the same recipe and data: a forced training may be another one
        return f"{key} was stopped and can be gone on with"
    return None if _registered(db, work) else f"{key} is finished but not registered"


def _registered(db: Database, work: Path) -> bool:
    """Whether every file of the finished training is one of a ready version of the same spec: it was killed before its folder was removed."""
    try:
        wanted = {file.sha256 for file in TrainedAdapter.load(work / "out").files}
    except (RegistryError, OSError, ValueError, KeyError, TypeError):
        return False
    same = AdapterVersion.spec_digest.like(f"sha256:{work.name}%")
    with db.read() as session:
        made = session.scalars(select(AdapterVersion).where(same, AdapterVersion.state == "ready"))
        return bool(wanted) and any(wanted <= {file.sha256 for file in version.files} for version in made)


def _require_safe(db: Database, store: ArtifactStore, names: Iterable[str]) -> int:
    """Read every file and checkpoint of every ready version of these advisors again. Returns how many versions; raises Conflict with every difference."""
    checked, wrong = 0, []
    with db.read() as session:
        for name in names:
            for version in _ready(session, _advisor(session, name)):
                checked += 1
                wrong += [f"{name}@{version.number} {line}" for line in versions.check_files(store, version.files)]
                kept = session.scalars(select(VersionCheckpoint.sha256).where(VersionCheckpoint.version_id == version.id))
                found = (store.verify(sha256) for sha256 in kept)
                wrong += [f"{name}@{version.number} checkpoint: {p.sentence}" for p in found if isinstance(p, Problem)]
    if wrong:
        raise Conflict(
            f"Not everything that was trained here is safe in {store.location}: {'; '.join(wrong[:10])}"
            + (f"; and {len(wrong) - 10} more." if len(wrong) > 10 else "."),
            hint="Repair the store first (registry verify lists what is wrong); nothing was removed.",
        )
    return checked


def _advisor(session: Session, name: str) -> Advisor:
    try:
        return advisors.get(session, name)
    except NotFound:
        raise Conflict(
            f"An adapter of {name} was trained here, and this catalogue does not know {name}: its versions may be lost.",
            hint="Look at REGISTRY_DATABASE_URL: it must be the catalogue that the training used.",
        ) from None


def _ready(session: Session, advisor: Advisor) -> Iterator[AdapterVersion]:
    before = None
    while page := versions.page(session, advisor, before=before, limit=200):
        yield from (v for v in page if v.state == "ready")
        before = page[-1].number


def _items(home: Path, works: Sequence[Path], models: Iterable[FetchedModel], code: Path) -> Iterator[Item]:
    for model in models:
        note = "its folder in the cache is a link, which is not followed" if _linked(model) else None
        yield Item("model cache", model.repo, () if note else tuple(_fetched(model)), note=note)
    for work in works:
        yield Item("training", work.name, (work, work.with_suffix(".lock")))
    bases = home / "bases"
    for path in sorted(bases.iterdir()) if bases.is_dir() and not bases.is_symlink() else []:
        if _BASE.fullmatch(path.name):
            yield Item("built-in base", path.name, (path,))
    temporary = tuple(_temporary())
    if temporary:
        yield Item("temporary folders", tempfile.gettempdir(), temporary)
    compiled = tuple(_bytecode(code))
    if compiled:
        yield Item("bytecode", str(code), compiled)


def _linked(model: FetchedModel) -> bool:
    """Whether a folder that huggingface_hub makes as a folder is a link to somewhere else."""
    folders = (model.folder, *(model.folder / part for part in ("blobs", "snapshots", "refs", ".no_exist")), model.folder.parent / ".locks")
    return any(folder.is_symlink() for folder in folders)


def _fetched(model: FetchedModel) -> Iterator[Path]:
    """The files and links in the hub's cache that came with this tool's downloads.

    First the bytes that no other snapshot refers to, then the links to them; a cleanup that is interrupted between the two is still told all names by the record.
    """
    folder, locks = model.folder, model.folder.parent / ".locks" / model.folder.name
    blobs = [folder / path for path in model.paths if path.startswith("blobs/")]
    others = [folder / path for path in model.paths if not path.startswith("blobs/")]
    used = {_blob(p) for p in _walk(folder / "snapshots") if p.is_symlink() and p not in set(others)}
    for blob in blobs:
        if blob.name not in used:
            yield from (blob, locks / f"{blob.name.split('.')[0]}.lock")
    yield from (path for path in others if not any(p.is_symlink() for p in path.parents if p.is_relative_to(folder)))
    # Folders come last, the inner ones first, and go only when they are empty.
    inner = {p for path in others for p in path.parents if p.is_relative_to(folder) and p != folder}
    yield from sorted(inner, key=lambda p: (-len(p.parts), p))
    yield from (folder / part for part in ("snapshots", "blobs", "refs", ".no_exist"))
    yield from (folder, locks)


def _blob(link: Path) -> str | None:
    """The name of the blob a snapshot's link points to; None for another link."""
    target = Path(link.readlink())
    return target.name if target.parent.name == "blobs" else None


def _temporary() -> Iterator[Path]:
    oldest = time.time() - TEMPORARY_AGE
    for pattern in TEMPORARY:
        for path in sorted(Path(tempfile.gettempdir()).glob(pattern)):
            with suppress(OSError):
                found = path.lstat()
                if found.st_uid == os.getuid() and path.is_dir() and not path.is_symlink() and found.st_mtime < oldest:
                    yield path


def _bytecode(code: Path) -> Iterator[Path]:
    """The compiled forms of this program's own modules; each needs its source beside it, so nobody else's is taken."""
    folders: dict[Path, None] = {}
    sources = [code / name for name in MODULES]
    for package in PACKAGES:
        sources += [p for p in _walk(code / package) if p.suffix == ".py"]
    for source in sources:
        cached = Path(importlib.util.cache_from_source(str(source)))
        if cached.parent.is_symlink():
            continue
        folders[cached.parent] = None
        yield from (p for p in sorted(cached.parent.glob(f"{source.stem}.*.pyc")) if source.is_file() and not p.is_symlink())
    yield from folders


def _walk(folder: Path) -> Iterator[Path]:
    """Every file and link below a folder; links are not followed, and a folder that is a link is not entered."""
    if folder.is_symlink():
        return
    for root, folders, files in os.walk(folder, followlinks=False):
        yield from (Path(root) / name for name in (*sorted(files), *(n for n in sorted(folders) if (Path(root) / n).is_symlink())))


def _whole(item: Item) -> bool:
    """Whether a folder is removed with all that is in it; the others go only when they are empty."""
    return item.kind in {"training", "built-in base", "temporary folders"}


def _parts(item: Item) -> Iterator[Path]:
    """The files and links of an item that are there."""
    for path in item.paths:
        if path.is_symlink() or path.is_file():
            yield path
        elif _whole(item):
            yield from _walk(path)


def _size(paths: Iterable[Path]) -> tuple[int, int]:
    """(how many, bytes) of files and links; a link counts as its own few bytes."""
    count = total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
            count += 1
    return count, total


def _measured(item: Item) -> Item:
    files, size = _size(_parts(item))
    return Item(item.kind, item.name, item.paths, files, size, None, item.note)


def _remove(item: Item) -> Item:
    """Remove an item's paths and measure again. What is gone already is no error; a link is removed, never followed."""
    for path in item.paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif _whole(item):
                shutil.rmtree(path)
            else:
                with suppress(OSError):  # not empty: something else of the owner's lies there
                    path.rmdir()
    return Item(item.kind, item.name, item.paths, item.files, item.before, _size(_parts(item))[1], item.note)


def _forget(home: Path, models: Iterable[FetchedModel]) -> None:
    """Forget what is gone, and remove the record and the folders of this home that are empty now."""
    if home.is_dir():
        borrowed.forget(home, tuple(model for model in models if not _linked(model)))
    for folder in (home / "work", home / "bases"):
        with suppress(OSError):
            if not folder.is_symlink():
                folder.rmdir()


_WHY = {
    "catalogue.db": "the catalogue",
    "catalogue.db-wal": "the catalogue's journal",
    "catalogue.db-shm": "the catalogue's journal",
    "artifacts": "the artifact store",
    "jobs": "the record of durable jobs",
    "pipeline": "documents and drafts of pipeline runs, which only lie here",
    "benchmarks": "records of benchmarks",
    borrowed.FILE: "the record of what this tool put here",
    borrowed.LOCK: "the record of what this tool put here",
    "work": "folders that no training of this program made",
    "bases": "bases that this program did not build",
}


def _kept(home: Path, going: Sequence[Item]) -> Iterator[Kept]:
    """What stays in the home; `going` is what a dry run would take from it."""
    for path in sorted(home.iterdir()) if home.is_dir() else []:
        if path.name in {borrowed.STARTING, borrowed.USERS}:
            continue
        size = _size((path,) if path.is_symlink() or path.is_file() else _walk(path))[1]
        size -= sum(item.before for item in going if item.paths and item.paths[0].is_relative_to(path))
        if going and size == 0 and path.name in {"work", "bases"}:
            continue
        yield Kept(
            path.name, size, "a link, which is not followed" if path.is_symlink() else _WHY.get(path.name, "not known to this program")
        )
