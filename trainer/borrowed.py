"""Remembers what this tool puts on a machine that may have to be given back: which base models it fetched, and whose adapters it trained here.

Rules: what lay in the hub's cache before this tool first asked for a model is written down before anything is fetched, so that only what came since can be called
ours; the first record of a model wins; the file is replaced whole, under a lock. It deletes nothing: jobs/cleanup.py reads it. Knows no database; loads no torch.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock

from registry.errors import Invalid

FILE = "borrowed.json"
LOCK = "borrowed.lock"
FORMAT = "borrowed/1"


@dataclass(frozen=True)
class FetchedModel:
    """A repository of the hub in the cache folder `cache`: the commits this tool used, and what was there before it first did.

    `before` maps 'blobs', 'refs' and 'snapshots/<commit>' to the names that were in those folders of the repository.
    """

    repo: str
    cache: str
    revisions: tuple[str, ...]
    before: Mapping[str, tuple[str, ...]]

    @property
    def folder(self) -> Path:
        """The repository's folder in the cache, as huggingface_hub names it."""
        return Path(self.cache) / ("models--" + self.repo.replace("/", "--"))


@dataclass(frozen=True)
class Borrowed:
    """All that was remembered: models fetched, advisors trained here."""

    models: tuple[FetchedModel, ...] = ()
    advisors: tuple[str, ...] = field(default=())


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
    before = {str(k): tuple(map(str, names)) for k, names in value["before"].items()}
    return FetchedModel(str(value["repo"]), str(value["cache"]), tuple(map(str, value["revisions"])), before)


def note_model(home: Path, repo: str, revision: str | None = None) -> None:
    """Remember a hub model: once before the first of its files is fetched, and again with the commit when it is known. Raises OSError."""
    cache = _cache()
    with _changing(home) as found:
        known = next((m for m in found.models if (m.repo, m.cache) == (repo, cache)), None)
        model = known or _as_it_is(FetchedModel(repo, cache, (), {}))
        if revision is not None and revision not in model.revisions:
            model = replace(model, revisions=(*model.revisions, revision))
        others = tuple(m for m in found.models if m is not known)
        _write(home, replace(found, models=(*others, model)))


def note_advisor(home: Path, advisor: str) -> None:
    """Remember that an advisor's adapter is trained on this machine. Raises OSError."""
    if advisor in read(home).advisors:
        return
    with _changing(home) as found:
        _write(home, replace(found, advisors=tuple(sorted({*found.advisors, advisor}))))


def forget_model(home: Path, model: FetchedModel) -> None:
    """Forget a model that was cleaned away. Raises OSError."""
    with _changing(home) as found:
        _write(home, replace(found, models=tuple(m for m in found.models if (m.repo, m.cache) != (model.repo, model.cache))))


def _as_it_is(model: FetchedModel) -> FetchedModel:
    snapshots = {f"snapshots/{name}": _names(model.folder / "snapshots" / name) for name in _names(model.folder / "snapshots")}
    return replace(model, before={"blobs": _names(model.folder / "blobs"), "refs": _names(model.folder / "refs"), **snapshots})


def _names(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(path.name for path in folder.iterdir()))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _cache() -> str:
    from huggingface_hub import constants

    return str(Path(constants.HF_HUB_CACHE).absolute())


@contextmanager
def _changing(home: Path) -> Iterator[Borrowed]:
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / LOCK):
        yield read(home)


def _write(home: Path, value: Borrowed) -> None:
    part = home / f".{FILE}.{secrets.token_hex(4)}.part"
    part.write_text(json.dumps({"format": FORMAT, **asdict(value)}, indent=1) + "\n", encoding="utf-8")
    part.replace(home / FILE)
