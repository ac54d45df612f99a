"""Which findings are passages of one work, and what is said of that work. Pure.

Rules:
- A work is named by its DOI first and by its URL second. Findings with the same DOI, or with the same URL, are of one work.
- A URL under which two DOIs were found (a list of results, a journal's front page) names neither of them: those works keep their DOI alone.
- Where findings of one work disagree about its class or its review status, the stricter word holds (the one that promises less), and it is noted.
- A finding without a DOI or an http(s) URL is of a document without a public address: it is kept, but it is no source that a card may list.
- The citation is the fullest one that was recorded; what nobody recorded stays out. Only characters that no page could show honestly are taken out.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from lineage import citations
from pipeline.values import Finding
from registry.errors import Invalid
from registry.identifiers import Identifier, identify

# From the word that promises most to the one that promises least; a disagreement ends at the later one.
CLASSES_BY_TRUST = ("academic", "institutional", "clinical", "industry", "professional", "community", "unclassified")
REVIEWS_BY_TRUST = ("peer_reviewed", "guideline", "preprint", "editorial", "self_published", "unknown")
_UNSHOWABLE = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DEEPEST = 6  # levels of a citation; none has more
_LONGEST_TITLE = 1000


@dataclass(frozen=True)
class Work:
    """One work and the passages that were read of it. `identifiers` is empty where it has no public address; `notes` says what its findings disagree about."""

    key: str
    identifiers: tuple[Identifier, ...]
    findings: tuple[Finding, ...]
    class_: str
    review_status: str
    csl: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def doi(self) -> str | None:
        """Its DOI, if it has one."""
        return next((i.doi for i in self.identifiers if i.doi), None)

    @property
    def url(self) -> str | None:
        """Where a person may click: its own page rather than the DOI's redirect."""
        return next((i.url for i in self.identifiers if not i.doi), self.identifiers[0].url if self.identifiers else None)

    @property
    def citation(self) -> citations.Citation:
        """Its citation, read."""
        return citations.read(self.csl, url=self.url, doi=self.doi)

    @property
    def title(self) -> str:
        """Its title in one line, or its address, or that it has none."""
        return citations.plain(self.csl.get("title")) or self.url or "A document without a title"


def works(findings: Iterable[Finding]) -> tuple[Work, ...]:
    """The works that these findings are passages of, in the order of their keys."""
    ordered = sorted(findings, key=lambda f: f.id)
    names = _names(ordered)
    groups: dict[str, list[Finding]] = defaultdict(list)
    roots = _roots(names.values())
    for finding in ordered:
        mine = names[finding.id]
        groups[roots[mine[0].key] if mine else f"document:{finding.document_sha256}"].append(finding)
    return tuple(sorted((_work(key, members, names) for key, members in groups.items()), key=lambda work: work.key))


def domain(url: str) -> str | None:
    """The host of an http(s) URL without `www.`, or None."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").lower().removeprefix("www.")
    except ValueError:
        return None
    return host if host and parts.scheme.lower() in ("http", "https") else None


def showable(text: str) -> str:
    """Text in NFC without the characters that `registry.refs.clean_text` refuses; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = (c for c in text if c in "\n\t" or not (c in _UNSHOWABLE or unicodedata.category(c) in ("Cc", "Cs")))
    return unicodedata.normalize("NFC", "".join(kept))


def _names(findings: Sequence[Finding]) -> dict[str, tuple[Identifier, ...]]:
    """Each finding's identifiers, DOI first; a URL that stands beside two DOIs is left out beside a DOI."""
    read = {f.id: (_identifier(f.doi), _identifier(f.url)) for f in findings}
    dois_at: dict[str, set[str]] = defaultdict(set)
    for doi, url in read.values():
        if doi and url:
            dois_at[url.key].add(doi.key)
    names = {}
    for key, (doi, url) in read.items():
        shared = doi is not None and url is not None and len(dois_at[url.key]) > 1
        names[key] = tuple(dict.fromkeys(i for i in (doi, None if shared else url) if i is not None))
    return names


@lru_cache(maxsize=50_000)  # normalising a URL takes 0.1 ms, and every file of a run asks for all of them again
def _identifier(text: str | None) -> Identifier | None:
    try:
        return identify(text) if text else None
    except Invalid:
        return None


def _roots(names: Iterable[tuple[Identifier, ...]]) -> dict[str, str]:
    """For every key the smallest key of its work; `doi:` sorts before `http`, so a DOI wins."""
    roots: dict[str, str] = {}

    def root(key: str) -> str:
        while roots.setdefault(key, key) != key:
            key = roots[key]
        return key

    for identifiers in names:
        tops = sorted({root(i.key) for i in identifiers})
        for other in tops[1:]:
            roots[other] = tops[0]
    return {key: root(key) for key in list(roots)}


def _work(key: str, findings: Sequence[Finding], names: Mapping[str, tuple[Identifier, ...]]) -> Work:
    identifiers = sorted({i.key: i for f in findings for i in names[f.id]}.values(), key=lambda i: (i.doi is None, i.key))
    class_, class_note = _stricter("class", [f.class_ for f in findings], CLASSES_BY_TRUST)
    review, review_note = _stricter("review status", [f.review_status for f in findings], REVIEWS_BY_TRUST)
    notes = tuple(f"{key}: {note}" for note in (class_note, review_note) if note)
    return Work(key, tuple(identifiers), tuple(findings), class_, review, _csl(findings), notes)


def _stricter(what: str, words: Sequence[str], by_trust: Sequence[str]) -> tuple[str, str | None]:
    """The word that promises least, and a note where there was a choice. A word that is no word of the catalogue counts as the last."""
    known = sorted({word if word in by_trust else by_trust[-1] for word in words}, key=by_trust.index)
    note = f"its passages were given the {what} {' and '.join(known)}; the stricter, {known[-1]}, was taken" if len(known) > 1 else None
    return known[-1], note


def _csl(findings: Sequence[Finding]) -> dict[str, Any]:
    """The fullest citation, completed by what the finding itself says. `findings` are in the order of ids, so ties always end the same."""
    best = max(findings, key=lambda f: (len([v for v in f.csl.values() if v]), bool(f.title), bool(f.authors)))
    csl = {str(name): value for name, value in best.csl.items() if name not in ("id", "custom")}
    csl.setdefault("type", "webpage")
    if not citations.plain(csl.get("title")):
        csl.pop("title", None)
        title = " ".join(showable(best.title).split())[:_LONGEST_TITLE]
        csl |= {"title": title} if title else {}
    if best.authors and not csl.get("author"):
        csl["author"] = [{"literal": name} for name in best.authors]
    if best.published and not csl.get("issued"):
        csl["issued"] = {"raw": best.published}
    return {name: _clean(value) for name, value in csl.items()}


def _clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return showable(value)
    if depth >= _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {showable(str(name)): _clean(item, depth + 1) for name, item in value.items()}
    return [_clean(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value


def one_line(text: str, limit: int | None = None) -> str:
    """Text in one line without invisible characters (joiners that scripts and emoji need stay), cut at `limit` characters with an ellipsis."""
    seen = (" " if c.isspace() else c for c in showable(text) if c in "\u200c\u200d" or unicodedata.category(c) != "Cf")
    line = " ".join("".join(seen).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"
