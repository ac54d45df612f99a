"""Requests to the model that writes, and its answers read strictly. Text in, values out; nothing is sent from here.

Rules: the words of the prompts live in baml_src/, and BAML only renders them and reads answers. Data is put into the rendered prompt afterwards, inside
fences, because BAML turns markers hidden in a parameter into messages and images. An answer counts only with stop_reason end_turn; of an answer that was
cut, the conversations that reached their END are kept. What a reader returns is checked again by strict models and by our own rules, and every cell
without a pair is named with its reason, so that only the missing part is asked for again.

Fields that nobody asked for are ignored, not refused: they reach no pair, and a paid answer would be lost for them. A missing or wrongly typed field is
refused. A pair may name at most MAX_NAMED findings and share no run of RUN_COPIED words with any it was given. It does not know whether a pair is good: pipeline/quality.py does.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import plan, safety
from pipeline.config import PipelineConfig
from pipeline.ports import CallFailed, ModelReply, ModelRequest
from pipeline.values import QUERY_KINDS, AdvisorDomain, Cell, Drop, Finding, Pair, Query
from registry.errors import Invalid

MAX_PERSONA = 60_000  # characters; about 25 pages. A longer prompt would cost more in every batch than the examples it explains
MAX_FINDING = 2_000  # characters of a finding that the writer sees
MAX_NAMED = 3  # findings a pair may rest on; the prompt says one to three, and more would count a source for pairs that it did not shape
RUN_COPIED = 12  # words in a row that a pair may not share with a finding; the length that quality.py takes for copying from the user
DOCUMENT_TOKENS = 2_500  # for the document that the person of a document_analysis pastes: 900 words, with room for other scripts
MAX_REPLY = 400_000  # characters; twenty times what the largest max_tokens can hold
MAX_OUTPUT = 20_000  # tokens; above 21,333 the SDK refuses a call that is not streamed
# BAML's parser was measured to hang (1,000 brackets) and to crash the process (100,000) on nested brackets, and to take minutes for thousands of fragments.
MAX_NESTING, MAX_BRACKETS, MAX_REPAIR = 32, 400, 120_000
ALIKE = 0.8  # Jaccard similarity of two queries' words, above which they ask the same
_USER_LENGTH = {"document_analysis": (200, 30_000)}  # characters; other categories as below
_ANY_USER, _ANY_ADVISOR = (2, 4_000), (40, 6_000)
_CUT = ("max_tokens", "model_context_window_exceeded")
_SEPARATORS = re.compile("[\x85\u2028\u2029]")  # line ends to safety.clean that JSON leaves as they are
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_LINK = re.compile(r"://|\bwww\.|\bsite:|\S@\S+\.\w|\b[\w-]+\.(?:com|org|net|io|co|gov|edu|info)\b", re.IGNORECASE)
T = TypeVar("T", bound=BaseModel)

# ----------------------------------------------------------------------------------------------------------------- what an answer looks like


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Domain(_Answer):
    name: str
    primary_domain: str
    expertise_areas: list[str]
    tone: list[str]
    style_phrases: list[str]
    audience: str
    done: Literal["END"]


class _Query(_Answer):
    text: str
    kind: Literal["expert_interview", "blog_or_forum", "how_to", "case_study", "study"]
    area: str


class _Plan(_Answer):
    queries: list[_Query]
    done: Literal["END"]


class _Turn(_Answer):
    user: str
    advisor: str


class _Pair(_Answer):
    cell: str
    findings: list[str]
    technique: str
    turns: list[_Turn]
    done: Literal["END"]


class _Batch(_Answer):
    pairs: list[_Pair]


class _Verdict(_Answer):
    pair: str
    validates_first: bool
    uses_technique: bool
    in_voice: bool
    specific: bool
    honest: bool
    safe: bool
    score: int
    why: str
    done: Literal["END"]


class _Verdicts(_Answer):
    verdicts: list[_Verdict]


@dataclass(frozen=True)
class _Form:
    """One BAML function: its slots, the model of its answer, and the list whose items end by themselves (None: the answer ends as a whole)."""

    function: str
    slots: tuple[str, ...]
    model: type[BaseModel]
    items: str | None = None


_DOMAIN = _Form("ExtractAdvisorDomain", ("persona",), _Domain)
_QUERIES = _Form("GenerateResearchQueries", ("domain", "counts", "avoid"), _Plan)
_SYNTHESIS = _Form("SynthesizeTrainingBatch", ("persona", "domain", "techniques", "cells", "findings"), _Batch, "pairs")
_JUDGE = _Form("JudgeTrainingPairs", ("domain", "pairs"), _Verdicts, "verdicts")


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema in the subset of constrained decoding: references resolved, every field required, nothing else allowed, no lengths or ranges."""
    whole = model.model_json_schema()
    return _plain(whole, whole.get("$defs", {}))  # type: ignore[no-any-return]


def _plain(node: Any, defs: Mapping[str, Any]) -> Any:
    if "$ref" in node:
        return _plain(defs[node["$ref"].rpartition("/")[2]], defs)
    if "const" in node:
        return {"type": "string", "enum": [node["const"]]}
    if node.get("type") == "object":
        fields = {name: _plain(part, defs) for name, part in node["properties"].items()}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    if node.get("type") == "array":
        return {"type": "array", "items": _plain(node["items"], defs)}
    return {name: node[name] for name in ("type", "enum") if name in node}


# ----------------------------------------------------------------------------------------------------------------------------- rendering


def _baml() -> Any:
    """BAML's generated client; 0.4 s at the first call. It writes to stderr unless told otherwise before it is imported."""
    os.environ.setdefault("BAML_LOG", "off")
    from baml_client.sync_client import b

    return b


def _slot(name: str) -> str:
    return f"@@slot:{name}@@"


@cache
def _rendered(form: _Form) -> tuple[str, str]:
    """System and user text of a prompt, with its slots still empty."""
    body = getattr(_baml().request, form.function)(*(_slot(name) for name in form.slots)).body.json()
    (system,), (message,) = body["system"], body["messages"]
    (user,) = message["content"]
    return system["text"], user["text"]


def _filled(text: str, data: Mapping[str, str]) -> str:
    """All slots at once, so that data holding a slot's mark stays data."""
    return re.sub("|".join(re.escape(_slot(name)) for name in data), lambda found: data[found.group()[7:-2]], text)


def _request(form: _Form, data: Mapping[str, str], config: PipelineConfig, purpose: str, max_tokens: int, attempt: int) -> ModelRequest:
    system, user = _rendered(form)
    return ModelRequest(
        purpose=purpose,
        model=config.model,
        system=_filled(system, data),
        messages=({"role": "user", "content": _filled(user, data)},),
        max_tokens=min(max_tokens, MAX_OUTPUT),
        schema=_schema(form.model),
        effort=config.effort,
        attempt=attempt,
    )


@lru_cache(maxsize=16)
def _fenced(nonce: str, label: str, text: str) -> str:
    """`safety.fence`, once for the parts that every batch of a run repeats."""
    return safety.fence(nonce, label, text)


def _lines(values: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line: no text can break out of its line. "(none)" for nothing."""
    return "\n".join(map(_json, values)) or "(none)"


def _json(value: Mapping[str, Any]) -> str:
    """JSON on one line, also after `safety.clean`: the line ends that JSON may leave bare stand only inside strings, and are written as an escape there."""
    return _SEPARATORS.sub(r"\\n", json.dumps(dict(value), ensure_ascii=False))


def _flat(text: str) -> str:
    """The text cleaned and on one line."""
    return " ".join(safety.clean(text).split())


# ------------------------------------------------------------------------------------------------------------------------------ reading


class Unreadable(ValueError):
    """The text holds no answer of the expected form."""


class StructuredReader(Protocol):
    """Reads the JSON of an answer. `cut`: the text ends too early; whole items of the form's list are still given."""

    def read(self, form: Any, text: str, *, cut: bool) -> dict[str, Any]:
        """The answer as plain JSON, unchecked. Raises Unreadable."""


class PydanticReader:
    """Plain JSON, tolerant of a code fence around it and of nothing else."""

    def read(self, form: _Form, text: str, *, cut: bool) -> dict[str, Any]:
        """The answer as plain JSON, unchecked. Raises Unreadable."""
        body = _unfenced(text)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            if cut and form.items:
                return {form.items: list(_whole_items(body, form.items))}
            raise Unreadable("the answer is no JSON") from None
        if not isinstance(value, dict):
            raise Unreadable("the answer is JSON, but no object")
        return value


class BamlReader:
    """BAML's tolerant parser: also reads JSON with small faults, or inside prose. It drops list items that do not fit without a word."""

    def read(self, form: _Form, text: str, *, cut: bool) -> dict[str, Any]:  # noqa: ARG002 - a cut item lacks its END and falls out by itself
        """The answer as plain JSON, unchecked. Raises Unreadable."""
        from baml_py.errors import BamlError

        body = _unfenced(text)
        _bounded(body)
        try:
            return dict(getattr(_baml().parse, form.function)(body).model_dump(mode="json"))
        except BamlError:  # its message repeats the answer and a stack trace: nothing for people
            raise Unreadable("the answer does not have the expected form") from None


def _unfenced(text: str) -> str:
    body = text.strip()
    if body.startswith("```"):
        body = body.partition("\n")[2].rstrip()
        body = body.removesuffix("```").rstrip()
    return body


def _bounded(body: str) -> None:
    """Refuse text on which BAML's parser would hang or crash. Whole JSON of reasonable depth is always safe."""
    depth = deepest = brackets = 0
    for found in re.finditer(r"[\[\]{}]", body):
        depth = depth + 1 if found.group() in "[{" else max(0, depth - 1)
        deepest, brackets = max(deepest, depth), brackets + 1
    if deepest > MAX_NESTING:
        raise Unreadable("the answer is nested too deep")
    if brackets > MAX_BRACKETS or len(body) > MAX_REPAIR:
        try:
            json.loads(body)
        except (ValueError, RecursionError):
            raise Unreadable("the answer is broken and too long to be mended") from None


def _whole_items(body: str, name: str) -> Iterator[Any]:
    """The items of a list that were complete when the text broke off."""
    start = re.search(rf'"{name}"\s*:\s*\[', body)
    at, decoder = (start.end() if start else len(body)), json.JSONDecoder()
    while (rest := re.compile(r"[\s,]*").match(body, at)) and rest.end() < len(body):
        try:
            item, at = decoder.raw_decode(body, rest.end())
        except (ValueError, RecursionError):
            return
        yield item


READERS: dict[str, Callable[[], StructuredReader]] = {"baml": BamlReader, "pydantic": PydanticReader}


def reader(name: str) -> StructuredReader:
    """The reader that `PipelineConfig.reader` names. Raises Invalid for an unknown one."""
    if name not in READERS:
        raise Invalid(f"The reader is one of {', '.join(READERS)}; found {name[:40]!a}.")
    return READERS[name]()


def _read(form: _Form, reply: ModelReply, name: str, what: str) -> dict[str, Any]:
    """The answer as plain JSON. Raises CallFailed: refused, truncated (where no part can be used alone) or malformed."""
    cut = reply.stop_reason in _CUT
    if reply.stop_reason == "refusal":
        category = str((reply.stop_details or {}).get("category") or "no category named")
        raise CallFailed("refused", f"The model refused {what} ({category[:60]}).")
    if cut and not form.items:
        raise CallFailed("truncated", f"The model's answer to {what} was cut off at its length limit.")
    if not cut and reply.stop_reason != "end_turn":
        raise CallFailed("malformed", f"The model stopped {what} with {reply.stop_reason[:40]!a}; expected end_turn.")
    if len(reply.text) > MAX_REPLY:
        raise CallFailed("malformed", f"The answer to {what} has {len(reply.text)} characters; expected at most {MAX_REPLY}.")
    try:
        return reader(name).read(form, reply.text, cut=cut)
    except Unreadable as error:
        raise CallFailed("malformed", f"The model's answer to {what} cannot be read: {error}.") from None


def _whole(form: _Form, value: Mapping[str, Any], model: type[T], what: str) -> T:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fields = sorted({".".join(map(str, e["loc"])) or form.function for e in error.errors()})
        raise CallFailed("malformed", f"The model's answer to {what} misses or misuses: {', '.join(fields)[:200]}.") from None


def _items(value: Mapping[str, Any], name: str, model: type[T]) -> tuple[list[T], list[Any]]:
    """The items of a list that fit their model, and the others; one bad item does not spoil the rest."""
    found, others = [], []
    items = value.get(name)
    for item in items if isinstance(items, list) else ():
        try:
            found.append(model.model_validate(item))
        except ValidationError:
            others.append(item)
    return found, others


# ------------------------------------------------------------------------------------------------------------------------------- domain


def check_persona(text: str) -> None:
    """Raise Invalid for a system prompt that is empty or longer than MAX_PERSONA characters."""
    if not re.search(r"\w", text):
        raise Invalid(
            "The system prompt is empty.", hint="Give the advisor a prompt of a few sentences: who it helps, with what, and how it sounds."
        )
    if len(text) > MAX_PERSONA:
        raise Invalid(
            f"The system prompt is too long: expected at most {MAX_PERSONA:,} characters, found {len(text):,}.",
            hint="Keep who the advisor is and how it sounds; give reference material as --documents.",
        )


def domain_request(persona_text: str, config: PipelineConfig, nonce: str, attempt: int = 0) -> ModelRequest:
    """Ask what an advisor is about. Raises Invalid for an empty or overlong prompt."""
    check_persona(persona_text)
    data = {"persona": safety.fence(nonce, "advisor-prompt", persona_text)}
    return _request(_DOMAIN, data, config, "extract", 4_000, attempt)


def read_domain(reply: ModelReply, reader: str = "baml") -> AdvisorDomain:
    """The domain, without fields that hold links or instructions, and without the advisor's name where research would see it.

    Raises CallFailed (refused, truncated, malformed), also when no subject or no area is left.
    """
    what = "the question what the advisor is about"
    found = _whole(_DOMAIN, _read(_DOMAIN, reply, reader, what), _Domain, what)
    name = _words(found.name, 60)
    areas = _list((_nameless(area, name) for area in found.expertise_areas), 12, 100)
    subject = _words(_nameless(found.primary_domain, name), 200)
    if not subject or not areas:
        raise CallFailed(
            "malformed", "The model named no usable subject for this system prompt: expected a domain and at least one area of expertise."
        )
    return AdvisorDomain(
        name=name,
        primary_domain=subject,
        expertise_areas=areas,
        tone=_list(found.tone, 10, 60),
        style_phrases=_list(found.style_phrases, 20, 160),
        audience=_words(_nameless(found.audience, name), 300),
    )


def _words(text: str, most: int) -> str:
    """The text on one line, or nothing where it is too long, a link or addressed to a model: a shortened lie is still one."""
    text = " ".join(safety.clean(text).split())
    return "" if len(text) > most or _LINK.search(text) or safety.scan(text) else text


def _list(texts: Iterable[str], most: int, length: int) -> tuple[str, ...]:
    unique = {words.casefold(): words for text in reversed(list(texts)) if (words := _words(text, length))}
    return tuple(reversed(unique.values()))[:most]


def _nameless(text: str, name: str) -> str:
    """The text without the advisor's name. Capital letters decide, so that an advisor called Hope keeps the word hope."""
    parts = [name, *name.split()] if name else []
    for part in (p for p in parts if len(p) > 2 and p[0].isupper()):
        text = re.sub(rf"\b{re.escape(part)}(?:['’]s)?\b", "", text)  # noqa: RUF001 - the curly apostrophe is meant
    return " ".join(text.split())


# ------------------------------------------------------------------------------------------------------------------------------ queries


def queries_request(
    domain: AdvisorDomain,
    counts: Mapping[str, int],
    config: PipelineConfig,
    nonce: str,
    attempt: int = 0,
    avoid: Sequence[Query] = (),
) -> ModelRequest:
    """Ask for research queries: `counts` of each kind, none like those to avoid. Holds the subject, areas and audience; never the name or the prompt."""
    subject = {"primary_domain": domain.primary_domain, "expertise_areas": list(domain.expertise_areas), "audience": domain.audience}
    data = {
        "domain": safety.fence(nonce, "subject", _json(subject)),
        "counts": "\n".join(f"{kind}: {counts[kind]}" for kind in QUERY_KINDS if counts.get(kind)),
        "avoid": safety.fence(nonce, "asked-before", "\n".join(query.text for query in avoid) or "(none)"),
    }
    return _request(_QUERIES, data, config, "queries", 3_000 + 80 * sum(counts.values()), attempt)


def read_queries(
    reply: ModelReply, domain: AdvisorDomain, counts: Mapping[str, int], reader: str = "baml", avoid: Sequence[Query] = ()
) -> tuple[Query, ...]:
    """At most `counts` queries of each kind, none alike or like those to avoid, none with a link or an instruction; ids go on after `avoid`.

    Raises CallFailed (refused, truncated, malformed). Fewer than asked may be left: `missing_queries` counts them; ask again with `avoid`.
    """
    what = "the search for research queries"
    value = _read(_QUERIES, reply, reader, what)
    found, _ = _items(value, "queries", _Query)
    if value.get("done") != "END" or not found:
        raise CallFailed("malformed", "The model's research queries came without their end or without any usable query.")
    left, seen = dict(counts), [_tokens(query.text) for query in avoid]
    kept: list[Query] = []
    for item in found:
        text, tokens = _words(item.text, 300), _tokens(item.text)
        if text and tokens and left.get(item.kind, 0) > 0 and not any(_alike(tokens, other) for other in seen):
            left[item.kind] -= 1
            seen.append(tokens)
            kept.append(Query(f"q{len(avoid) + len(kept) + 1:03d}", text, item.kind, _area(item.area, domain)))
    return tuple(kept)


def missing_queries(found: Iterable[Query], counts: Mapping[str, int]) -> dict[str, int]:
    """How many queries of each kind `counts` asks for beyond those found, in the order of QUERY_KINDS; kinds that lack none are left out."""
    have = Counter(query.kind for query in found)
    return {kind: counts[kind] - have[kind] for kind in QUERY_KINDS if counts.get(kind, 0) > have[kind]}


def _tokens(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def _alike(a: frozenset[str], b: frozenset[str]) -> bool:
    return len(a & b) > ALIKE * len(a | b)


def _area(words: str, domain: AdvisorDomain) -> str:
    """The given area that shares the most words; the first one where none does."""
    tokens = _tokens(words)
    return max(domain.expertise_areas, key=lambda area: len(tokens & _tokens(area)) / len(tokens | _tokens(area) | {""}), default="")


# ---------------------------------------------------------------------------------------------------------------------------- synthesis


@dataclass(frozen=True)
class Batch:
    """What one synthesis answer brought: pairs in the order of their cells, the cells still without one, and why."""

    pairs: tuple[Pair, ...]
    missing: tuple[Cell, ...]
    drops: tuple[Drop, ...]


def synthesis_request(
    persona_text: str,
    domain: AdvisorDomain,
    cells: Sequence[Cell],
    findings: Sequence[Finding],
    config: PipelineConfig,
    nonce: str,
    attempt: int = 0,
) -> ModelRequest:
    """Ask for one pair per cell. The system text is the same in every batch of a run, so the provider can cache it; flagged findings are left out.

    max_tokens: 2,000 for thinking, 200 for a pair's frame, 900 for each turn (280 words and the question, with room), DOCUMENT_TOKENS for a document, at most
    MAX_OUTPUT. Raises Invalid for an empty or overlong system prompt.
    """
    check_persona(persona_text)
    facts = {name: value for name, value in domain.as_json().items() if value}
    orders = (
        {
            "id": c.id,
            "category": c.category,
            "person": c.persona,
            "situation": c.scenario,
            "technique": c.technique,
            "voice": c.voice,
            "user_turns": c.turns,
        }
        for c in cells
    )
    passages = ({"id": f.id, "role": f.role, "title": _flat(f.title)[:300], "text": _flat(f.text)[:MAX_FINDING]} for f in _usable(findings))
    data = {
        "persona": _fenced(nonce, "advisor-prompt", persona_text),
        "domain": _fenced(nonce, "subject", _json(facts)),
        "techniques": "\n".join(f"{name}: {meaning}" for name, meaning in plan.techniques().items()),
        "cells": safety.fence(nonce, "orders", _lines(orders)),
        "findings": safety.fence(nonce, "findings", _lines(passages)),
    }
    return _request(_SYNTHESIS, data, config, "synthesis", 2_000 + sum(map(_room, cells)), attempt)


def _room(cell: Cell) -> int:
    """Tokens that a cell's pair may take."""
    return 200 + 900 * cell.turns + (DOCUMENT_TOKENS if cell.category == "document_analysis" else 0)


def _usable(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if not finding.flags]


def read_pairs(reply: ModelReply, cells: Sequence[Cell], findings: Sequence[Finding], call_key: str, reader: str = "baml") -> Batch:
    """The pairs that keep to their cells and to the given findings. Never raises for what a model wrote: each missing cell has its reason in a drop.

    Reasons: refused, malformed, truncated, not_written; unknown_cell, duplicate_cell; turns, empty_text, length, invented_finding, too_many_findings,
    no_answer_finding, copied.
    """
    try:
        value = _read(_SYNTHESIS, reply, reader, "a batch of conversations")
    except CallFailed as failed:
        return Batch((), tuple(cells), tuple(Drop(cell.id, "synthesis", failed.reason, failed.message) for cell in cells))
    written, broken = _items(value, "pairs", _Pair)
    by_id, given = {cell.id: cell for cell in cells}, {finding.id: finding for finding in _usable(findings)}
    runs = _runs_of(given.values()) if written else {}
    pairs: dict[str, Pair] = {}
    drops: list[Drop] = [Drop(_cell_of(item), "synthesis", "malformed", "a field is missing or of the wrong type") for item in broken]
    for item in written:
        problem = _problem(item, by_id, pairs, given) or _copied(item, runs)
        if problem is None:
            pairs[item.cell] = _pair(item, by_id[item.cell], call_key)
        else:
            drops.append(Drop(_words(item.cell, 60) or "unnamed", "synthesis", *problem))
    missing = tuple(cell for cell in cells if cell.id not in pairs)
    return Batch(
        tuple(pairs[cell.id] for cell in cells if cell.id in pairs),
        missing,
        (*drops, *_unsaid(missing, drops, reply, empty=not (written or broken))),
    )


def _cell_of(item: Any) -> str:
    named = item.get("cell") if isinstance(item, dict) else None
    return (_words(named, 60) if isinstance(named, str) else "") or "unnamed"


def _unsaid(missing: Iterable[Cell], drops: Sequence[Drop], reply: ModelReply, *, empty: bool) -> list[Drop]:
    """A reason for every cell that nothing was said about."""
    named = {drop.item for drop in drops}
    reason = "truncated" if reply.stop_reason in _CUT else "malformed" if empty else "not_written"
    words = {
        "truncated": "the answer was cut off before it",
        "malformed": "the answer holds no conversation",
        "not_written": "the answer left it out",
    }
    return [Drop(cell.id, "synthesis", reason, words[reason]) for cell in missing if cell.id not in named]


def _problem(item: _Pair, cells: Mapping[str, Cell], done: Mapping[str, Pair], given: Mapping[str, Finding]) -> tuple[str, str] | None:
    """The first rule that a written pair breaks: (reason, evidence), or None."""
    cell = cells.get(item.cell)
    if cell is None:
        return "unknown_cell", "nobody ordered it"
    if cell.id in done:
        return "duplicate_cell", "the cell had its pair already"
    if len(item.turns) != cell.turns:
        return "turns", f"expected {cell.turns} turns, found {len(item.turns)}"
    if problem := _text_problem(item, cell):
        return problem
    if invented := [name for name in item.findings if name not in given]:
        return "invented_finding", f"names {invented[0][:40]!a}, which was not given to it"
    if (named := len(set(item.findings))) > MAX_NAMED:
        return "too_many_findings", f"names {named} findings; expected at most {MAX_NAMED} that it really rests on"
    if any(f.role == "answer" for f in given.values()) and not any(given[name].role == "answer" for name in item.findings):
        return "no_answer_finding", "names no finding that may carry an answer"
    return None


def _runs_of(findings: Iterable[Finding]) -> dict[tuple[str, ...], str]:
    """Every run of RUN_COPIED words in the findings' titles and texts, with the finding it stands in."""
    return {run: finding.id for finding in findings for text in (finding.title, finding.text) for run in _runs(text)}


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = [word.replace("\u2019", "'") for word in _WORD.findall(safety.clean(text).casefold())]
    return zip(*(words[start:] for start in range(RUN_COPIED)), strict=False)


def _copied(item: _Pair, runs: Mapping[tuple[str, ...], str]) -> tuple[str, str] | None:
    """Whether either side repeats a finding word for word: a forum post holds a real person's words, and an answer must not quote."""
    for number, turn in enumerate(item.turns):
        for side, text in (("user", turn.user), ("advisor", turn.advisor)):
            if found := next((run for run in _runs(text) if run in runs), None):
                return "copied", f"turn {number + 1} of the {side} repeats {runs[found]}: {' '.join(found)[:120]!a}"
    return None


def _text_problem(item: _Pair, cell: Cell) -> tuple[str, str] | None:
    for number, turn in enumerate(item.turns):
        # Only the first message holds the document.
        limits = _USER_LENGTH.get(cell.category, _ANY_USER) if number == 0 else _ANY_USER
        for side, text, (least, most) in (("user", turn.user.strip(), limits), ("advisor", turn.advisor.strip(), _ANY_ADVISOR)):
            if not text:
                return "empty_text", f"turn {number + 1} of the {side} is empty"
            if not least <= len(text) <= most:
                return "length", f"turn {number + 1} of the {side} has {len(text)} characters; expected {least} to {most}"
    return None


def _pair(item: _Pair, cell: Cell, call_key: str) -> Pair:
    messages = tuple(
        (role, text.replace("\r\n", "\n").strip())
        for turn in item.turns
        for role, text in (("user", turn.user), ("assistant", turn.advisor))
    )
    return Pair(
        id=pair_id(cell.id, messages),
        cell=cell.id,
        category=cell.category,
        messages=messages,
        findings=tuple(dict.fromkeys(item.findings)),
        technique=_seen_technique(item.technique),
        call=call_key,
    )


def _seen_technique(said: str) -> str:
    """The technique that the writer says came out, by the plan's name for it where it has one. What was ordered stands in the cell."""
    words = _words(said, 60)
    return next((name for name in plan.techniques() if _tokens(name) == _tokens(words)), words) or "not named"


def pair_id(cell: str, messages: Sequence[tuple[str, str]]) -> str:
    """`p_` and 12 hex digits over the cell's id and the messages."""
    return "p_" + hashlib.sha256(json.dumps([cell, messages], ensure_ascii=False).encode()).hexdigest()[:12]


# -------------------------------------------------------------------------------------------------------------------------------- judge


@dataclass(frozen=True)
class Judgement:
    """What a second model thinks of a pair. `failed` names the questions answered with no; `score` is 1 to 5, `reason` a sentence."""

    pair: str
    passed: bool
    score: int
    failed: tuple[str, ...]
    reason: str


LEAST_SCORE = 3  # "usable"


def judge_request(pairs: Sequence[Pair], domain: AdvisorDomain, config: PipelineConfig, nonce: str, attempt: int = 0) -> ModelRequest:
    """Ask for one verdict per pair. The judge sees the domain and the conversations; not the findings and not the whole system prompt."""
    facts = {name: value for name, value in domain.as_json().items() if value}
    talks = ({"id": p.id, "technique": p.technique, "messages": [{"role": role, "text": text} for role, text in p.messages]} for p in pairs)
    data = {
        "domain": safety.fence(nonce, "advisor", _json(facts)),
        "pairs": safety.fence(nonce, "conversations", _lines(talks)),
    }
    return _request(_JUDGE, data, config, "judge", 2_000 + 250 * len(pairs), attempt)


def read_verdicts(reply: ModelReply, pairs: Sequence[Pair], reader: str = "baml") -> tuple[Judgement, ...]:
    """The verdicts on the given pairs, in their order, the first one for each; a pair without a readable verdict has none.

    Raises CallFailed (refused, malformed), also when no verdict can be read.
    """
    value = _read(_JUDGE, reply, reader, "the judging of a batch")
    found, _ = _items(value, "verdicts", _Verdict)
    by_pair = {verdict.pair: _judgement(verdict) for verdict in reversed(found) if 1 <= verdict.score <= 5}
    known = tuple(by_pair[pair.id] for pair in pairs if pair.id in by_pair)
    if pairs and not known:
        raise CallFailed("malformed", "The judge's answer holds no verdict on any of the pairs it was given.")
    return known


def _judgement(verdict: _Verdict) -> Judgement:
    asked = ("validates_first", "uses_technique", "in_voice", "specific", "honest", "safe")
    failed = tuple(name for name in asked if not getattr(verdict, name))
    passed = not failed and verdict.score >= LEAST_SCORE
    return Judgement(verdict.pair, passed, verdict.score, failed, _words(verdict.why, 400) or ", ".join(failed) or f"score {verdict.score}")
