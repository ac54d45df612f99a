"""Small, real rows for tests: each factory goes through the product's own functions."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from registry import advisors, bases, datasets, versions
from registry.artifacts import ArtifactStore
from registry.db import Database
from registry.imports import Defaults, read_csl, read_jsonl
from registry.manifest import FileEntry
from registry.models import AdapterVersion, Advisor, Dataset
from registry.refs import clean_text
from registry.splits import SplitRule

ACTOR = "tester"
BASE = bases.BaseFacts("test/base", "a" * 40, "hub", note="A base for tests.")


def line(question: str, answer: str = "I hear you. What would help?", *, sources: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
    """One JSONL row."""
    return {"instruction": question, "response": answer, "origin": "human", "sources": list(sources), **more}


def jsonl(*rows: dict[str, Any]) -> str:
    """Rows as a JSONL text."""
    return "\n".join(json.dumps(row) for row in rows)


def add_advisor(db: Database, slug: str = "elena", **more: Any) -> Advisor:
    """An advisor with a persona."""
    with db.transaction() as session:
        return advisors.add(session, slug, f"You are {clean_text(slug, 'slug')}, warm and direct.", actor=ACTOR, **more)


def add_dataset(
    db: Database, rows: Sequence[dict[str, Any]], slug: str = "elena", *, csl: Sequence[dict[str, Any]] = (), fraction: float = 0.0
) -> Dataset:
    """A dataset from JSONL rows; nothing is held out unless asked for."""
    draft = read_jsonl(jsonl(*rows), "rows.jsonl", Defaults())
    citations = read_csl(json.dumps(list(csl)), "sources.json") if csl else ()
    with db.transaction() as session:
        advisor = advisors.get(session, slug, lock=True)
        return datasets.register(session, advisor, draft, actor=ACTOR, citations=citations, rule=SplitRule(fraction=fraction)).dataset


def put_files(store: ArtifactStore, tag: str) -> tuple[FileEntry, ...]:
    """Two small files with the names of an adapter's; their content depends on `tag` alone."""
    entries = []
    for name in versions.ADAPTER_FILES:
        blob = store.put_bytes(f"{name} {tag}".encode())
        entries.append(FileEntry(name, blob.digest, blob.size))
    return tuple(entries)


def proposal(
    session: Session, advisor: Advisor, files: tuple[FileEntry, ...], *, seed: int = 1, recipe: dict[str, Any] | None = None
) -> versions.Proposal:
    """A proposal on the advisor's latest dataset."""
    dataset = datasets.latest(session, advisor)
    base = bases.ensure(session, BASE)
    return versions.Proposal(dataset, dataset.persona.sha256, base, recipe or {"r": 16}, seed, files)


def add_version(db: Database, store: ArtifactStore, slug: str = "elena", *, seed: int = 1, force: bool = False) -> AdapterVersion:
    """A ready version of the advisor's latest dataset; another seed gives another version."""
    files = put_files(store, f"{slug} {seed}")
    with db.transaction() as session:
        advisor = advisors.get(session, slug, lock=True)
        wanted = proposal(session, advisor, files, seed=seed)
        version = versions.begin(session, advisor, wanted, actor=ACTOR, force=force)
    with db.transaction() as session:
        return versions.finish(session, version.id, wanted.manifest.digest, actor=ACTOR)


def damage(store: ArtifactStore, digest: str) -> Path:
    """Flip one bit of a blob, as a failing disk would; returns the file that was changed."""
    (path,) = [
        p for p in Path(store.location).rglob("*") if p.is_file() and p.as_posix().replace("/", "").endswith(digest.removeprefix("sha256:"))
    ]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


@contextmanager
def tampering(db: Database) -> Iterator[Connection]:
    """A connection past the catalogue's triggers, as one has who owns the tables; what the triggers refuse to everybody else, it can do."""
    with db.engine.begin() as connection:
        guards = []
        if db.is_sqlite:
            guards = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
        else:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for name, _ in guards:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield connection
        for _, statement in guards:
            connection.exec_driver_sql(statement)
