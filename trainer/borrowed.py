"""Remembers what this tool puts on a machine that may have to be given back: what it fetched into the hub's cache, and whose adapters it trained here.

1. A download of ours is watched (`fetching`): the names that come into the model's folder meanwhile are ours, and none that come before or after. They are
   written down while they come, so that a kill loses the names of a second or two at most, which then stay.
2. Whoever works under a home says so (`in_use`), and a cleanup (`alone`) waits for nobody: it is refused while someone works, and nobody starts while it runs.
3. The file is replaced whole, under a lock. It deletes no one's files: jobs/cleanup.py reads it.

What it does not know: two tools that fetch the same revision in the same seconds. Knows no database; loads no torch.
"""

import errno
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from threading import Event, Thread
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from registry.errors import Conflict, Invalid, RegistryError, Unavailable

FILE = "borrowed.json"
LOCK = "borrowed.lock"
FORMAT = "borrowed/1"
STARTING = "in-use.lock"  # held for a moment by whoever starts, and by a cleanup as long as it runs
USERS = "in-use"  # a folder with one locked file for each command at work
WATCH_S = 1.0  # seconds between two looks at a download


@dataclass(frozen=True)
class FetchedModel:
    """A repository of the hub in the cache folder `cache`, and the files in its folder that came with this tool's downloads (relative, with slashes)."""

    repo: str
    cache: str
    paths: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The repository's folder in the cache, as huggingface_hub names it."""
        return Path(self.cache) / ("models--" + self.repo.replace("/", "--"))


@dataclass(frozen=True)
class Borrowed:
    """All that was remembered: models fetched, advisors trained here."""

    models: tuple[FetchedModel, ...] = ()
    advisors: tuple[str, ...] = field(default=())


# --- who works here


@contextmanager
def in_use(home: Path) -> Iterator[None]:
    """Say that a command works under this home, until the block ends or the process dies. Waits while a cleanup runs. Raises Invalid where nothing can be written."""
    mine = home / USERS / f"{secrets.token_hex(8)}.lock"
    with ExitStack() as stack:
        try:
            _enter(home, mine, stack)
        except OSError as error:
            raise Invalid(
                f"The folder {home} cannot be written: {error.strerror}.", hint="Check REGISTRY_HOME and the space on its disk."
            ) from error
        stack.callback(mine.unlink, missing_ok=True)
        yield


def _enter(home: Path, mine: Path, stack: ExitStack) -> None:
    """Lock `mine` at a moment when no cleanup runs. Raises OSError."""
    for _ in range(100):
        with suppress(FileNotFoundError):  # a cleanup removed the home while this waited for it
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / STARTING):
                mine.parent.mkdir(exist_ok=True)
                stack.enter_context(FileLock(mine))
                return
    raise FileNotFoundError(errno.ENOENT, "it disappears again and again", str(home))


@contextmanager
def alone(home: Path, *, tidy: bool) -> Iterator[None]:
    """Nobody works under this home while the block runs; with `tidy`, its own files go afterwards, and the home if it is empty. Raises Conflict where someone does."""
    if not home.is_dir():
        yield
        return
    lock, users = FileLock(home / STARTING, timeout=0), home / USERS
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
            for path in sorted(users.glob("*.lock")):
                stack.enter_context(FileLock(path, timeout=0))
        except Timeout:
            raise Conflict(
                f"A command of this program works in {home}.", hint="Wait for it, or stop it (Ctrl-C, SIGTERM), then clean up."
            ) from None
        yield
        if tidy:
            for path in (
                *users.glob("*.lock"),
                home / STARTING,
            ):  # while they are still locked: who waits for one sees that it is gone, and makes another
                path.unlink(missing_ok=True)
            for folder in (users, home):
                _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    """Remove a folder that is empty."""
    with suppress(OSError):
        if not folder.is_symlink():
            folder.rmdir()


# --- what was fetched


def home_above(folder: Path) -> Path | None:
    """The home that a training's folder lies in: the nearest one above it that has users; None where there is none."""
    return next((parent for parent in folder.absolute().parents if (parent / USERS).is_dir()), None)


@contextmanager
def fetching(home: Path | None, repo: str, revision: str | None = None) -> Iterator[None]:
    """Remember what comes into a hub model's folder while the block runs: of this commit, or of any. Without a home, nothing. Raises OSError and Invalid."""
    if home is None:
        yield
        return
    model = FetchedModel(repo, _cache())
    before = _there(model, revision)
    ended = Event()

    def watch() -> None:
        while not ended.wait(WATCH_S):
            with suppress(OSError, RegistryError):  # the last look tells
                _note(home, model, _there(model, revision) - before)

    watcher = Thread(target=watch, name="borrowed", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        _note(home, model, _there(model, revision) - before)


def download(
    home: Path | None, repo: str, revision: str | None, wanted: Sequence[str], unwanted: Sequence[str], what: str | None = None
) -> Path:
    """The folder of a hub repository's wanted files at a commit, fetched where the cache lacks them, and remembered in `home`. Raises Unavailable, and OSError for the disk's own."""
    from huggingface_hub import snapshot_download

    try:
        with fetching(home, repo, revision):
            return Path(snapshot_download(repo, revision=revision, allow_patterns=list(wanted), ignore_patterns=list(unwanted)))
    except OSError as error:
        if error.errno is not None:  # the disk's errors have a number, the hub's have none
            raise
        raise Unavailable(
            f"{what or repo} at {revision} could not be downloaded: {type(error).__name__}.",
            hint=f"Check the network, HF_TOKEN and the licence page https://huggingface.co/{repo}, then run the command again.",
        ) from error


def _there(model: FetchedModel, revision: str | None) -> set[str]:
    """The files and links in a model's folder, relative to it; of the snapshots and what is known to be missing from them, those of one commit."""
    found = set()
    for part in ("blobs", "refs", *(f"{name}/{revision or ''}" for name in ("snapshots", ".no_exist"))):
        top = model.folder / part
        if not (model.folder.is_symlink() or top.is_symlink() or top.parent.is_symlink()):
            found |= {p.relative_to(model.folder).as_posix() for p in top.rglob("*") if p.is_symlink() or p.is_file()}
    return found


def _note(home: Path, model: FetchedModel, new: set[str]) -> None:
    if not new:
        return
    with _changing(home) as found:
        known = next((m for m in found.models if _same(m, model)), model)
        if not new <= set(known.paths):
            others = tuple(m for m in found.models if m is not known)
            _write(home, replace(found, models=(*others, replace(known, paths=tuple(sorted({*known.paths, *new}))))))


def _same(one: FetchedModel, other: FetchedModel) -> bool:
    return (one.repo, one.cache) == (other.repo, other.cache)


def _cache() -> str:
    from huggingface_hub import constants

    return str(Path(constants.HF_HUB_CACHE).absolute())


# --- the record


def read(home: Path) -> Borrowed:
    """What was remembered under this home; empty where nothing was. Raises Invalid for a file that makes no sense."""
    path = home / FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            _refuse(path, f"its format is {str(value['format'])[:40]!a}")
        return Borrowed(tuple(_model(m) for m in value["models"]), tuple(map(str, value["advisors"])))
    except FileNotFoundError:
        return Borrowed()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _refuse(path, f"{type(error).__name__} {error}")


def _refuse(path: Path, why: str) -> NoReturn:
    raise Invalid(
        f"{path} is not the record of what this tool put here: {why}.",
        hint="It says what may be deleted, so nothing is. Look at it, restore it or move it away.",
    ) from None


def _model(value: Mapping[str, Any]) -> FetchedModel:
    paths = tuple(map(str, value["paths"]))
    for path in map(PurePosixPath, paths):
        if path.is_absolute() or ".." in path.parts or path.parts[:1] not in {("blobs",), ("refs",), ("snapshots",), (".no_exist",)}:
            raise ValueError(f"{str(path)[:80]!a} is no file of a model in the hub's cache")
    return FetchedModel(str(value["repo"]), str(value["cache"]), paths)


def note_advisor(home: Path, advisor: str) -> None:
    """Remember that an advisor's adapter is trained on this machine. Raises OSError."""
    if advisor in read(home).advisors:
        return
    with _changing(home) as found:
        _write(home, replace(found, advisors=tuple(sorted({*found.advisors, advisor}))))


def forget(home: Path, models: tuple[FetchedModel, ...]) -> None:
    """Forget models that were cleaned away; the record goes when no model is left in it. Raises OSError."""
    with _changing(home) as found:
        left = tuple(m for m in found.models if not any(_same(m, gone) for gone in models))
        if left:
            _write(home, replace(found, models=left))
        else:
            (home / FILE).unlink(missing_ok=True)
            (home / LOCK).unlink(missing_ok=True)


@contextmanager
def _changing(home: Path) -> Iterator[Borrowed]:
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / LOCK):
        yield read(home)


def _write(home: Path, value: Borrowed) -> None:
    part = home / f".{FILE}.{secrets.token_hex(4)}.part"
    part.write_text(json.dumps({"format": FORMAT, **asdict(value)}, indent=1) + "\n", encoding="utf-8")
    part.replace(home / FILE)
