"""Reads training data and citations from text: JSONL, CSV by a column mapping, CSL-JSON. Pure: text in, drafts out, every problem with its line.

Nothing is guessed: a pair without a stated origin is refused unless the caller states one for the whole file, and what the text does not say about a
source stays unknown. A system turn is refused, or taken out when the caller asks for it: the persona is never trained.
"""

import csv
import datetime as dt
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.errors import Invalid, RegistryError
from registry.identifiers import Identifier, identify
from registry.refs import check_digest, clean_text, nearest
from registry.vocabulary import CLASSES, EXTENTS, ORIGINS, REVIEW_STATUSES, ROLES

MAX_TURN = 100_000  # characters of one turn
MAX_PROBLEMS = 20  # enough to see the pattern without a wall of text
CSV_TARGETS = ("instruction", "response", "source", "title", "category", "author", "author_url", "origin", "generator")
_KNOWN_KEYS = frozenset(
    {
        "messages",
        "instruction",
        "response",
        "prompt",
        "completion",
        "input",
        "output",
        "system",
        "category",
        "origin",
        "generator",
        "sources",
        "author",
        "read_by_people",
    }
)


@dataclass(frozen=True)
class DocumentDraft:
    """What was read of a source; None is 'not recorded'."""

    extent: str | None = None
    retrieved_at: dt.datetime | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class SourceDraft:
    """One work as an import describes it. `keys` are all its identifiers, the main one first."""

    identifiers: tuple[Identifier, ...]
    csl: dict[str, Any] = field(default_factory=dict)
    class_: str = "unclassified"
    review_status: str = "unknown"
    documents: tuple[DocumentDraft, ...] = ()

    @property
    def key(self) -> str:
        """The main identifier's key."""
        return self.identifiers[0].key


@dataclass(frozen=True)
class Link:
    """A pair names a source, and says whether it shaped the answer or only the question."""

    identifier: Identifier
    role: str = "answer"
    document: DocumentDraft | None = None


@dataclass(frozen=True)
class ExampleDraft:
    """One pair or conversation, checked."""

    messages: tuple[tuple[str, str], ...]
    origin: str
    category: str | None = None
    generator: str | None = None
    author: dict[str, str] | None = None
    read_by_people: bool = False
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class DatasetDraft:
    """A whole file, checked; `notes` says what was left out and why."""

    examples: tuple[ExampleDraft, ...]
    sources: tuple[SourceDraft, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Defaults:
    """What holds for every line that does not say otherwise."""

    origin: str | None = None
    generator: str | None = None
    strip_system: bool = False
    source_class: str = "unclassified"
    review_status: str = "unknown"


class _Problems:
    """Collects a sentence per faulty line and raises all of them at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[str] = []

    def add(self, place: str, error: RegistryError | str) -> None:
        words = error if isinstance(error, str) else f"{error.message} {error.hint or ''}".strip()
        self.found.append(f"{self.name} {place}: {words}")

    def raise_any(self) -> None:
        if self.found:
            more = len(self.found) - MAX_PROBLEMS
            shown = "\n".join(self.found[:MAX_PROBLEMS]) + (f"\n... and {more} more" if more > 0 else "")
            raise Invalid(shown, hint="Nothing was imported. Mend the lines named above and import again.")


def read_jsonl(text: str, name: str, defaults: Defaults) -> DatasetDraft:
    """Read a JSONL file: one pair or conversation a line. Raises Invalid with file and line for every faulty one."""
    problems, examples = _Problems(name), []
    ignored: set[str] = set()
    for number, line in enumerate(text.lstrip("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = _json_object(line)
            ignored |= row.keys() - _KNOWN_KEYS
            examples.append(_example(row, defaults))
        except RegistryError as error:
            problems.add(f"line {number}", error)
    problems.raise_any()
    notes = (f"fields that are not recorded: {', '.join(sorted(ignored))}",) if ignored else ()
    return _finish(name, examples, (), notes)


def _json_object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Invalid(f"expected one JSON object a line; {error.msg} at character {error.pos + 1}.") from None
    except RecursionError:
        raise Invalid("expected one JSON object a line; it is nested too deeply to read.") from None
    except ValueError:  # Python refuses to read a number of more than 4300 digits
        raise Invalid("expected one JSON object a line; it holds a number with thousands of digits.") from None
    if not isinstance(row, dict):
        raise Invalid(f"expected one JSON object a line; found {_kind(row)}.")
    return row


def _refuse_constant(word: str) -> Any:
    raise Invalid(f"{word} is not JSON.")


def _kind(value: object) -> str:
    names = {
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true or false",
        type(None): "null",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _example(row: Mapping[str, Any], defaults: Defaults) -> ExampleDraft:
    origin = row.get("origin") or defaults.origin
    if origin not in ORIGINS:
        found = f"'{origin}'" if origin else "none"
        raise Invalid(
            f"expected an origin ({', '.join(ORIGINS)}); found {found}.", hint="Add it to the line, or pass --origin for the whole file."
        )
    generator = _optional_text(row.get("generator") or defaults.generator, "generator", 200)
    if origin != "human" and not generator:
        raise Invalid(
            f"the origin is {origin}, so the line must name its generator (the model that wrote it).", hint="Add it, or pass --generator."
        )
    return ExampleDraft(
        messages=_messages(row, strip_system=defaults.strip_system),
        origin=origin,
        category=_optional_text(row.get("category"), "category", 100),
        generator=generator if origin != "human" else None,
        author=_author(row.get("author")),
        read_by_people=row.get("read_by_people") is True,
        links=_links(row.get("sources")),
    )


def _optional_text(value: Any, what: str, limit: int) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Invalid(f"expected text as {what}; found {_kind(value)}.")
    return clean_text(value.strip(), what, limit=limit) or None


def _author(value: Any) -> dict[str, str] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return {"name": clean_text(value.strip(), "author", limit=300)}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        author = {"name": clean_text(value["name"].strip(), "author", limit=300)}
        if isinstance(value.get("url"), str):
            author["url"] = identify(value["url"]).url
        return author
    raise Invalid("expected author as text, or as an object with name and url.")


def _messages(row: Mapping[str, Any], *, strip_system: bool) -> tuple[tuple[str, str], ...]:
    """The turns as (role, content): user first, advisor last, taking turns."""
    if row.get("system") and not strip_system:
        raise Invalid("a system turn would bake the persona into the weights.", hint="Take it out, or pass --strip-system.")
    turns = row.get("messages")
    if turns is None:
        turns = [
            {"role": "user", "content": _question(row)},
            {"role": "assistant", "content": _first(row, "response", "completion", "output")},
        ]
    if not isinstance(turns, list) or not turns:
        raise Invalid(f"expected 'messages' to be a list of turns; found {'an empty list' if turns == [] else _kind(turns)}.")
    checked = [_turn(turn, i) for i, turn in enumerate(turns, 1)]
    if any(role == "system" for role, _ in checked):
        if not strip_system:
            raise Invalid("a system turn would bake the persona into the weights.", hint="Take it out, or pass --strip-system.")
        checked = [turn for turn in checked if turn[0] != "system"]
    for i, (role, content) in enumerate(checked):
        expected = "user" if i % 2 == 0 else "assistant"
        if role != expected:
            raise Invalid(f"expected turns of user and assistant by turns, user first; turn {i + 1} is {role}.")
        if not content:
            raise Invalid(f"the {'question' if role == 'user' else 'response'} in turn {i + 1} is empty.")
    if not checked or checked[-1][0] != "assistant":
        raise Invalid("the last turn must be the advisor's (assistant).")
    return tuple(checked)


def _question(row: Mapping[str, Any]) -> Any:
    instruction = _first(row, "instruction", "prompt")
    extra = row.get("input")
    return f"{instruction}\n\n{extra}" if isinstance(extra, str) and extra.strip() else instruction


def _first(row: Mapping[str, Any], *keys: str) -> Any:
    for key in keys:
        if key in row:
            return row[key]
    raise Invalid(f"expected 'messages', or 'instruction' and 'response'; '{keys[0]}' is missing.")


def _turn(turn: Any, number: int) -> tuple[str, str]:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
        raise Invalid(f"expected turn {number} to be an object with role and content as text.")
    role = turn["role"]
    if role not in ("user", "assistant", "system"):
        raise Invalid(f"expected the role user, assistant or system in turn {number}; found {role[:40]!a}.")
    content = clean_text(turn["content"].replace("\r\n", "\n").replace("\r", "\n"), f"turn {number}", limit=MAX_TURN, multiline=True)
    return role, content.strip()


def _links(value: Any) -> tuple[Link, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Invalid(f"expected 'sources' to be a list of URLs, DOIs or objects; found {_kind(value)}.")
    links = [_link(item) for item in value]
    return tuple(dict.fromkeys(links))


def _link(item: Any) -> Link:
    if isinstance(item, str):
        return Link(identify(item))
    if not isinstance(item, dict):
        raise Invalid(f"expected a source as a URL, a DOI or an object with url or doi; found {_kind(item)}.")
    name = item.get("doi") or item.get("url")
    if not isinstance(name, str):
        raise Invalid("a source object must name its url or its doi.")
    role = item.get("role", "answer")
    if role not in ROLES:
        raise Invalid(f"expected a source's role to be answer or question; found {str(role)[:40]!a}.")
    document = _document(item) if item.keys() & {"extent", "retrieved_at", "sha256"} else None
    return Link(identify(name), role, document)


def _document(item: Mapping[str, Any]) -> DocumentDraft:
    extent, sha256 = item.get("extent"), item.get("sha256")
    if extent is not None and extent not in EXTENTS:
        raise Invalid(f"expected a document's extent to be one of {', '.join(EXTENTS)}; found {str(extent)[:40]!a}.")
    if sha256 is not None:
        sha256 = check_digest(str(sha256) if str(sha256).startswith("sha256:") else f"sha256:{sha256}")
    return DocumentDraft(extent, _moment(item.get("retrieved_at")), sha256)


def _moment(value: Any) -> dt.datetime | None:
    if value is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(str(value))
        return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"expected retrieved_at as an ISO 8601 time such as 2026-11-01T10:00:00Z; found {str(value)[:40]!a}.") from None


def check_words(defaults: Defaults) -> None:
    """Raise Invalid for a class or a review status that is none."""
    for what, value, known in (("class", defaults.source_class, CLASSES), ("review status", defaults.review_status, REVIEW_STATUSES)):
        if value not in known:
            raise Invalid(f"A source's {what} is one of {', '.join(known)}; found {str(value)[:40]!a}.")


def read_csv(text: str, name: str, mapping: Mapping[str, Sequence[str]], defaults: Defaults) -> DatasetDraft:
    """Read a CSV file; `mapping` says which columns make up what (see CSV_TARGETS), several columns joined by an empty line.

    With `source` mapped, each row's page becomes a source, titled and signed by `title` and `author` where those are mapped.
    """
    check_words(defaults)
    rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline=""), strict=True)
    _check_mapping(mapping, list(_fields(rows, name)), name)
    problems, examples = _Problems(name), []
    pages: dict[str, dict[str, Any]] = {}
    try:
        for row in rows:
            values = {target: _joined(row, columns) for target, columns in mapping.items()}
            try:
                example = _csv_example(values, defaults)
            except RegistryError as error:
                problems.add(f"line {rows.line_num}", error)
                continue
            examples.append(example)
            _remember_page(pages, example, values)
    except csv.Error as error:
        problems.add(f"line {rows.line_num}", f"not readable as CSV: {error}.")
    problems.raise_any()
    sources = tuple(
        SourceDraft((page["identifier"],), _page_csl(page), defaults.source_class, defaults.review_status) for page in pages.values()
    )
    return _finish(name, examples, sources, ())


def _fields(rows: "csv.DictReader[str]", name: str) -> Iterable[str]:
    try:
        fields = rows.fieldnames
    except csv.Error as error:
        raise Invalid(f"{name} line 1: not readable as CSV: {error}.") from None
    if not fields:
        raise Invalid(f"{name} is empty: expected a line with column names and at least one row.")
    return fields


def _check_mapping(mapping: Mapping[str, Sequence[str]], fields: list[str], name: str) -> None:
    for target, columns in mapping.items():
        if target not in CSV_TARGETS:
            raise Invalid(f"A CSV column can be mapped to {', '.join(CSV_TARGETS)}; found '{target}'.")
        for column in columns:
            if column not in fields:
                close = nearest(column, fields)
                hint = f"Did you mean '{close}'?" if close else "Check --map."
                raise Invalid(f"{name} has no column '{column}' (mapped to {target}); its columns are {', '.join(fields)}.", hint=hint)
    missing = [target for target in ("instruction", "response") if target not in mapping]
    if missing:
        raise Invalid(
            f"The mapping does not say which column is the {missing[0]}.",
            hint=f"Add --map {missing[0]}=COLUMN; the columns are {', '.join(fields)}.",
        )


def _joined(row: Mapping[str, str | None], columns: Sequence[str]) -> str:
    return "\n\n".join(part for column in columns if (part := (row.get(column) or "").strip()))


def _csv_example(values: Mapping[str, str], defaults: Defaults) -> ExampleDraft:
    author: dict[str, str] | None = {"name": values["author"]} if values.get("author") else None
    if author and values.get("author_url"):
        author["url"] = values["author_url"]
    row: dict[str, Any] = {key: values.get(key) for key in ("instruction", "response", "category", "origin", "generator")}
    row["sources"] = [values["source"]] if values.get("source") else []
    row["author"] = author
    return _example(row, defaults)


def _remember_page(pages: dict[str, dict[str, Any]], example: ExampleDraft, values: Mapping[str, str]) -> None:
    """Collect what the rows of one page say about it: its first title, and everybody who wrote there."""
    for link in example.links:
        page = pages.setdefault(link.identifier.key, {"identifier": link.identifier, "title": None, "authors": {}})
        page["title"] = page["title"] or values.get("title") or None
        if example.author:
            page["authors"].setdefault(example.author["name"])


def _page_csl(page: Mapping[str, Any]) -> dict[str, Any]:
    csl: dict[str, Any] = {"type": "webpage"}
    if page["title"]:
        csl["title"] = clean_text(" ".join(page["title"].split()), "a title", limit=1000)
    if page["authors"]:
        csl["author"] = [{"literal": name} for name in page["authors"]]
    return csl


def _finish(name: str, examples: list[ExampleDraft], sources: tuple[SourceDraft, ...], notes: tuple[str, ...]) -> DatasetDraft:
    if not examples:
        raise Invalid(f"{name} holds no training pair.", hint="Expected at least one line with a question and a response.")
    return DatasetDraft(tuple(examples), sources, notes)


def read_csl(text: str, name: str) -> tuple[SourceDraft, ...]:
    """Read a CSL-JSON array. `custom` may carry class, review_status and documents (extent, retrieved_at, sha256). Raises Invalid with the item's place."""
    try:
        items = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{name} is not readable as CSL-JSON: {error}.", hint="Expected a JSON array of citations.") from None
    if not isinstance(items, list):
        raise Invalid(f"{name}: expected a JSON array of citations; found {_kind(items)}.")
    problems, drafts = _Problems(name), []
    for number, item in enumerate(items, 1):
        try:
            drafts.append(_source(item))
        except RegistryError as error:
            problems.add(f"item {number}", error)
    problems.raise_any()
    return tuple(drafts)


def _source(item: Any) -> SourceDraft:
    if not isinstance(item, dict):
        raise Invalid(f"expected a citation as an object; found {_kind(item)}.")
    names = [item[key] for key in ("DOI", "URL") if isinstance(item.get(key), str) and item[key].strip()]
    if not names:
        raise Invalid("a citation must carry a DOI or a URL; one without either is not a source.", hint="Find its page, or leave it out.")
    if not isinstance(item.get("title"), str) or not item["title"].strip():
        raise Invalid("a citation must carry a title.")
    given = item.get("custom")
    custom: dict[str, Any] = given if isinstance(given, dict) else {}
    class_, status = custom.get("class", "unclassified"), custom.get("review_status", "unknown")
    if class_ not in CLASSES:
        raise Invalid(f"expected custom.class to be one of {', '.join(CLASSES)}; found {str(class_)[:40]!a}.")
    if status not in REVIEW_STATUSES:
        raise Invalid(f"expected custom.review_status to be one of {', '.join(REVIEW_STATUSES)}; found {str(status)[:40]!a}.")
    documents = custom.get("documents") or []
    if not isinstance(documents, list) or not all(isinstance(d, dict) for d in documents):
        raise Invalid("expected custom.documents to be a list of objects.")
    csl = {key: _clean_json(value) for key, value in item.items() if key not in ("custom", "id")}
    return SourceDraft(tuple(dict.fromkeys(identify(n) for n in names)), csl, class_, status, tuple(_document(d) for d in documents))


def _clean_json(value: Any, depth: int = 0) -> Any:
    """A citation's value with every string checked; Invalid beyond six levels, which no citation has."""
    if depth > 6:
        raise Invalid("a citation is nested too deeply.")
    if isinstance(value, str):
        return clean_text(" ".join(value.split()), "a citation's text", limit=5000)
    if isinstance(value, list):
        return [_clean_json(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {clean_text(str(k), "a citation's field", limit=100): _clean_json(v, depth + 1) for k, v in value.items()}
    if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= 2**53):
        raise Invalid(f"a citation holds a number that JSON cannot carry exactly: {value}.")
    return value


def iter_links(draft: DatasetDraft) -> Iterator[Identifier]:
    """Every identifier that a pair of the draft names."""
    for example in draft.examples:
        for link in example.links:
            yield link.identifier
