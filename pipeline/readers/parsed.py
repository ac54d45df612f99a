"""What every parser gives back or raises, and the decoding that text formats share. Runs in the child; standard library only."""

import codecs
import re
from dataclasses import dataclass

from pipeline.safety import clean, scan

HIDDEN_KEPT = 200_000  # characters of hidden text that are searched


@dataclass(frozen=True)
class Parsed:
    """One document. `cut` says that a limit of the parser left something out; `notes` then says what."""

    text: str
    title: str | None = None
    pages: int | None = None
    notes: tuple[str, ...] = ()
    hidden: str = ""
    cut: bool = False


class Broken(Exception):
    """A document that cannot be read: a reason code of readers.Unreadable, the rest of a sentence after the file's name, and what to do."""

    def __init__(self, reason: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.hint = reason, message, hint


def decode(data: bytes) -> str:
    """UTF-8, or UTF-16 with its mark, as text with line feeds. Raises Broken for other bytes; nothing is guessed."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Broken(
            "encoding",
            f"expected UTF-8 text; found byte 0x{data[error.start]:02x} at position {error.start}.",
            "Save the file as UTF-8 (in most editors: Save as, encoding UTF-8).",
        ) from None
    if "\x00" in text:
        raise Broken("wrong_content", "expected text; found binary data.", "Check that this is the file you mean.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def tidy(text: str) -> str:
    """The text with no space before a line's end and never more than one empty line."""
    lines = [re.sub(r"[ \t\u00a0]+", " ", line).strip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def hidden_note(hidden: str) -> tuple[str, ...]:
    """The sentence for the report, where something was hidden."""
    length = len(hidden.strip())
    return (f"Hidden text left out ({length} characters that a reader of the page does not see).",) if length else ()


def invisible(text: str) -> str:
    """The lines in which invisible characters say something or are too many; a soft hyphen and a lone zero-width space, which pages are full of, are not."""
    if text.isascii():
        return ""
    return "\n".join(line for line in text.split("\n") if not line.isascii() and _tells(line))


def _tells(line: str) -> bool:
    """Whether a line says something to a model that is lost once it is cleaned: 'previous<invisible>instructions' becomes one word."""
    found = set(scan(line))
    return bool(found) and (not _TELLING.isdisjoint(found) or not found <= set(scan(clean(line))))


_TELLING = frozenset({"hidden-unicode", "encoded-instruction"})
