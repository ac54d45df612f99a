"""Reads dataset and citation files of this machine and registers them. Paths come from the command line alone, never from a client of the API."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry import advisors, datasets, personas
from registry.db import Database
from registry.errors import Invalid, NotFound
from registry.imports import Defaults, SourceDraft, read_csl, read_csv, read_jsonl
from registry.splits import SplitRule

MAX_FILE = 1024 * 1024 * 1024  # 1 GiB of text is some million pairs; more belongs into several datasets


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises NotFound or Invalid with the path and what was found."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    if path.stat().st_size > MAX_FILE:
        raise Invalid(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_FILE:,} are read.", hint="Split it into several datasets.")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(
            f"{path} is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}.", hint="Save it as UTF-8."
        ) from None


def read_mapping(path: Path | None, pairs: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """A CSV mapping from a JSON file and from TARGET=COLUMN[,COLUMN] options; options win. Returns (columns by target, other settings of the file)."""
    columns: dict[str, list[str]] = {}
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            data = json.loads(read_text(path))
            columns = {str(k): [str(c) for c in v] for k, v in data.pop("columns").items()}
            settings = dict(data)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise Invalid(f'{path}: expected {{"columns": {{"response": ["COLUMN"], ...}}}}; {type(error).__name__}: {error}.') from None
    for pair in pairs:
        target, equals, value = pair.partition("=")
        if not equals or not value:
            raise Invalid(f"Expected --map TARGET=COLUMN, such as --map response=answerText; found {pair!a}.")
        columns[target] = value.split(",")
    return columns, settings


def import_dataset(
    db: Database,
    advisor: str,
    path: Path,
    *,
    actor: str,
    citations: Path | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    defaults: Defaults | None = None,
    heldout: float = 0.1,
    persona: str | None = None,
) -> datasets.Imported:
    """Read a JSONL or CSV file and register it for an advisor, in one transaction. Raises NotFound and Invalid; then nothing was written."""
    defaults = defaults or Defaults()
    text = read_text(path)
    if path.suffix.lower() in (".csv", ".tsv") or columns:
        draft = read_csv(text, path.name, columns or {}, defaults)
    else:
        draft = read_jsonl(text, path.name, defaults)
    described: tuple[SourceDraft, ...] = read_csl(read_text(citations), citations.name) if citations else ()
    with db.transaction() as session:
        owner = advisors.get_active(session, advisor, lock=True)
        written_with = personas.get(session, owner, persona) if persona else None
        return datasets.register(
            session, owner, draft, actor=actor, citations=described, rule=SplitRule(fraction=heldout), persona=written_with
        )
