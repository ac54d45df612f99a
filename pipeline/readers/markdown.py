"""Markdown: its words and its code, without front matter, link targets and HTML. Runs in the child; standard library only."""

import re
from collections.abc import Callable

from pipeline.readers.parsed import Broken, Parsed, decode, tidy

_FRONT = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?)\n(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title\s*[:=]\s*(.+)$", re.MULTILINE | re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]{0,3}(```+|~~~+)", re.MULTILINE)
_HEADING = re.compile(r"^#[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--(.*?)(?:-->|\Z)", re.DOTALL)
_REFERENCE = re.compile(r"^[ \t]{0,3}\[([^\]\n]{1,200})\]:[ \t]*(.*)$", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\[\]\n]{0,1000})\](?:\([^()\n]{0,1000}(?:\([^()\n]{0,200}\))?[^()\n]{0,200}\)|\[[^\]\n]{0,200}\])")
_AUTOLINK = re.compile(r"<(?:https?|mailto|ftp):[^>\s]{1,2000}>", re.IGNORECASE)
_HIDDEN_TAG = re.compile(
    r"<([a-z][\w-]*)\b[^<>]{0,500}?(?:\bhidden\b|aria-hidden\s*=\s*[\"']?true|display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0)[^<>]{0,500}>(.*?)(?:</\1\s*>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(r"</?[a-z][^<>]{0,500}>", re.IGNORECASE)


def parse(data: bytes, characters: int) -> Parsed:  # noqa: ARG001 - every parser has the same form
    """The text; the title from the front matter or the first heading."""
    text = decode(data)
    title, text = _front_matter(text)
    hidden: list[str] = []
    text = "".join(part if is_code else _prose(part, hidden) for is_code, part in _parts(text))
    if not text.strip() and not hidden:
        raise Broken("empty", "the file holds no text below its front matter.", "Check that this is the file you mean.")
    heading = _HEADING.search(text)
    unseen = tidy("\n".join(hidden))
    return Parsed(tidy(text), title=title or (heading.group(1).strip() if heading else None), hidden=unseen)


def _front_matter(text: str) -> tuple[str | None, str]:
    match = _FRONT.match(text)
    if match is None:
        return None, text
    title = _FRONT_TITLE.search(match.group(2))
    return (title.group(1).strip().strip("\"'") or None if title else None), text[match.end() :]


def _parts(text: str) -> list[tuple[bool, str]]:
    """The text cut into (is code, lines); an unclosed fence runs to the end, as Markdown says."""
    parts: list[tuple[bool, str]] = []
    rest = text
    while match := _FENCE.search(rest):
        closing = re.compile(rf"^[ \t]{{0,3}}{re.escape(match.group(1))}[ \t]*$", re.MULTILINE).search(rest, match.end())
        end = closing.end() if closing else len(rest)
        parts += [(False, rest[: match.start()]), (True, rest[match.start() : end])]
        rest = rest[end:]
    return [*parts, (False, rest)]


def _prose(text: str, hidden: list[str]) -> str:
    def hide(group: int) -> Callable[[re.Match[str]], str]:
        def keep(match: re.Match[str]) -> str:
            hidden.append(match.group(group))
            return " "

        return keep

    text = _COMMENT.sub(hide(1), text)
    text = _HIDDEN_TAG.sub(hide(2), text)
    text = _REFERENCE.sub(lambda match: _reference(match, hidden), text)
    for _ in range(3):  # an image inside a link, inside a list of them
        text = _LINK.sub(r"\1", text)
    return _TAG.sub("", _AUTOLINK.sub("", text))


def _reference(match: re.Match[str], hidden: list[str]) -> str:
    """A link's definition goes; `[//]: # (words)` is Markdown's way to write a comment, so its words count as hidden."""
    if match.group(1).startswith(("//", "comment", "^")) or match.group(2).startswith("#"):
        if match.group(1).startswith("^"):
            return match.group(2)  # a footnote's text is seen
        hidden.append(match.group(2))
    return ""
