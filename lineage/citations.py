"""A citation's CSL-JSON as plain text: the short form, a line in the manner of APA, authors and date. Pure.

Rules: only fields that are recorded are written, nothing is guessed; a missing date is "n.d."; a missing author is the publisher, and without one the
title. CSL arrives from imports, so every field may have any type: what does not fit counts as absent. Markup in titles is taken out, since a card
promises plain text.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_DATE = "n.d."
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
# Most fields hold nothing to clean; to find that out with one search halves the time of a card.
_UNCLEAN = re.compile("[<&\x00-\x1f\x7f-\xa0\u061c\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2069\u3000\ufeff\ud800-\udfff]|^ | $|  ")
_ISO_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")
_APA_AUTHORS = 20  # APA 7, 9.8: up to twenty are listed, of more the first nineteen and the last
_LONGEST = 500


def plain(value: Any, limit: int = _LONGEST) -> str | None:
    """A field as one line of text without markup, or None. Crossref gives titles as lists: the first counts."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, str)), None)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**15 else None
    if not isinstance(value, str):
        return None
    text = " ".join(_UNSEEN.sub("", _without_markup(html.unescape(value))).split()) if _UNCLEAN.search(value) else value
    return (text if len(text) <= limit else text[: limit - 1] + "…") or None


def _without_markup(text: str) -> str:
    while (stripped := _TAG.sub("", text)) != text:  # <<b>i> would leave a tag behind
        text = stripped
    return text


@dataclass(frozen=True)
class Author:
    """A person by family and given name, or a group by its `literal` name."""

    family: str | None = None
    given: str | None = None
    literal: str | None = None

    @property
    def name(self) -> str:
        """What stands in a short citation."""
        return self.literal or self.family or ""

    @property
    def inverted(self) -> str:
        """Family name first, given names as initials."""
        initials = " ".join(_initial(part) for part in (self.given or "").split())
        return f"{self.name}, {initials}" if initials and not self.literal else self.name

    def as_json(self) -> dict[str, str]:
        """CSL's own names for the parts, those that are recorded."""
        if self.literal:
            return {"literal": self.literal}
        return {"family": self.name} | ({"given": self.given} if self.given else {})


def _initial(part: str) -> str:
    pieces = [piece for piece in part.split("-") if piece]
    return "-".join(f"{piece[0]}." for piece in pieces)


def authors(csl: Mapping[str, Any]) -> list[Author]:
    """Everybody in the author field who has a name."""
    listed = csl.get("author")
    found = [_author(item) for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    return [author for author in found if author is not None]


def _author(item: Mapping[str, Any]) -> Author | None:
    literal, family, given = (plain(item.get(key), 200) for key in ("literal", "family", "given"))
    if literal:
        return Author(literal=literal)
    if family is None:
        return Author(literal=given) if given else None  # somebody with one name
    particle = plain(item.get("non-dropping-particle"), 40)
    return Author(family=f"{particle} {family}" if particle else family, given=given)


@dataclass(frozen=True)
class Issued:
    """When a work appeared, as far as it is recorded."""

    year: int | None = None
    month: int | None = None
    day: int | None = None
    words: str | None = None

    @property
    def display(self) -> str:
        """For a reader: 2014, January 2024, 28 May 2019, or n.d."""
        if self.year is None:
            return self.words or NO_DATE
        month = [_MONTHS[self.month - 1]] if self.month else []
        return " ".join([*([str(self.day)] if self.day else []), *month, str(self.year)])

    @property
    def apa(self) -> str:
        """For a reference list: 2014, or 2019, May 28."""
        if self.year is None:
            return self.words or NO_DATE
        month = f", {_MONTHS[self.month - 1]}" if self.month else ""
        return f"{self.year}{month}" + (f" {self.day}" if self.day else "")

    def as_json(self) -> dict[str, Any]:
        """Year, month and the display."""
        return {"year": self.year, "month": self.month, "display": self.display}


def issued(csl: Mapping[str, Any]) -> Issued:
    """The date of publication; parts that make no date are absent."""
    value = csl.get("issued")
    if not isinstance(value, Mapping):
        return Issued()
    parts = value.get("date-parts")
    first = parts[0] if isinstance(parts, list) and parts else None
    if isinstance(first, list):
        return _dated([_number(part) for part in first[:3]])
    raw = plain(value.get("raw") or value.get("literal"), 60)
    match = _ISO_DATE.fullmatch(raw) if raw else None
    return _dated([int(g) for g in match.groups() if g]) if match else Issued(words=raw)


def _number(part: Any) -> int | None:
    if isinstance(part, str) and part.isascii() and part.isdigit() and len(part) < 5:
        return int(part)
    return part if isinstance(part, int) and not isinstance(part, bool) else None


def _dated(parts: list[int | None]) -> Issued:
    year, month, day = (*parts, None, None, None)[:3]
    if year is None or not 1 <= year <= 9999:
        return Issued()
    if month is None or not 1 <= month <= 12:
        return Issued(year)
    return Issued(year, month, day if day is not None and 1 <= day <= 31 else None)


@dataclass(frozen=True)
class Citation:
    """A citation, read once: what is recorded and clean, None for the rest."""

    people: tuple[Author, ...]
    date: Issued
    title: str | None
    container: str | None
    publisher: str | None
    volume: str | None
    issue: str | None
    page: str | None
    url: str | None
    doi: str | None


def read(csl: Mapping[str, Any], *, url: str | None = None, doi: str | None = None) -> Citation:
    """The fields of a citation that the card shows; the address and the DOI are the catalogue's own."""
    title, container, publisher = plain(csl.get("title")), plain(csl.get("container-title"), 300), plain(csl.get("publisher"), 200)
    volume, issue, page = (plain(csl.get(key), 100) for key in ("volume", "issue", "page"))
    return Citation(tuple(authors(csl)), issued(csl), title, container, publisher, volume, issue, page, url, doi)


def short(citation: Citation) -> str:
    """Oerlemans & Bakker (2014); with three authors or more the first et al.; without any the publisher, the title or the address."""
    year = str(citation.date.year) if citation.date.year else NO_DATE
    match [author.name for author in citation.people[:3]]:
        case []:
            title = plain(citation.title, 80)
            who = citation.publisher or (f"“{title}”" if title else None) or citation.url or "Untitled"
        case [one]:
            who = one
        case [one, two]:
            who = f"{one} & {two}"
        case [one, *_]:
            who = f"{one} et al."
    return f"{who} ({year})"


def citation_text(citation: Citation) -> str:
    """One line in the manner of APA 7, of the fields that are recorded."""
    title, publisher = citation.title, citation.publisher
    date = f"({citation.date.apa})"
    who = _listed(citation.people) or publisher
    opening = f"{_ended(who)} {date}." if who else None
    parts = [opening, _ended(title) if title else None] if opening else [_ended(title) if title else None, f"{date}."]
    container = _container(citation)
    parts += [f"{container}." if container else None, _ended(publisher) if publisher and publisher != who else None]
    parts.append(f"https://doi.org/{citation.doi}" if citation.doi else citation.url)
    return " ".join(part for part in parts if part)


def _listed(people: Sequence[Author]) -> str | None:
    names = [author.inverted for author in people]
    if len(names) > _APA_AUTHORS:
        return ", ".join(names[: _APA_AUTHORS - 1]) + f", … {names[-1]}"
    if len(names) > 1:
        return ", ".join(names[:-1]) + f", & {names[-1]}"
    return names[0] if names else None


def _ended(text: str) -> str:
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


def _container(citation: Citation) -> str | None:
    """Journal, volume(issue), pages."""
    if citation.container is None:
        return None
    volume, issue = citation.volume, citation.issue
    number = f"{volume}({issue})" if volume and issue else volume or (f"({issue})" if issue else None)
    return ", ".join(part for part in (citation.container, number, citation.page) if part)
