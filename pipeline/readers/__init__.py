"""Reads the documents a person hands over: PDF, EPUB, HTML, Markdown, captions. The parser runs in a child process with limits; it can only fail alone.

Rules: the file is named by the person at the command line and opened here; the child gets bytes over stdin, never a path, and an empty environment, so no
secret is near it. Memory, CPU seconds, wall seconds and written files are limited; whatever goes wrong ends in `Unreadable` with a sentence.
Nothing is fetched, nothing is unpacked to disk, no script runs.

What this does not know: what a picture shows, how a PDF's columns run, and in a PDF which text is visible. Text that a page hides (HTML, EPUB,
Markdown, caption notes) is left out of `text` and kept in `hidden`, so that it can be searched for planted instructions.
"""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import RegistryError

FORMATS = {
    ".pdf": "pdf",
    ".epub": "epub",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".vtt": "captions",
    ".srt": "captions",
}
KNOWN = ", ".join(FORMATS)
PASSAGE = 1500  # characters; about 350 tokens, so that six passages fit a synthesis prompt with room for the answer
MAX_PASSAGES = 40  # of one document; a book must not drown the other sources
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What one document may cost. Bytes of the file, bytes of the child's address space, seconds of CPU and of wall time, characters kept of its text."""

    file_bytes: int = 50 * _MIB
    memory_bytes: int = 1024 * _MIB
    cpu_s: int = 30
    wall_s: float = 60.0
    characters: int = 5_000_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class ReadDocument:
    """What was read of one file. `extent` is full_text, or excerpt where a limit cut it; `pages` counts a PDF's pages or an EPUB's chapters.

    `notes` are sentences for the report. `hidden` is text that a reader of the page would not see; it is only ever searched, never used.
    """

    text: str
    extent: str
    title: str | None
    pages: int | None
    notes: tuple[str, ...] = ()
    hidden: str = ""


class Unreadable(RegistryError):
    """A document that could not be read. `reason`: unknown_format, missing, empty, too_large, too_slow, memory, wrong_content, encrypted, no_text, encoding, broken."""

    code = "unreadable_document"

    def __init__(self, reason: str, message: str, hint: str | None = None) -> None:
        """Keep the reason code beside the sentences."""
        super().__init__(message, hint)
        self.reason = reason


def read_document(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> ReadDocument:
    """Read one document. Blocks for as long as the child runs (about 0.2 s, at most `limits.wall_s`). Raises Unreadable."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise Unreadable(
            "unknown_format",
            f"{path.name}: expected one of {KNOWN}; found '{path.suffix[:20]}'.",
            "Convert it, or rename it to what it is.",
        )
    data = _bytes(path, limits)
    _refuse_other_content(path.name, kind, data)
    answer = _ask_child(path.name, kind, data, limits)
    if "error" in answer:
        raise Unreadable(str(answer["error"]), f"{path.name}: {answer['message']}", answer.get("hint"))
    text = str(answer["text"])
    if not text.strip():
        raise Unreadable("no_text", f"{path.name}: expected text; found none.", "Check that the file shows text when you open it.")
    return ReadDocument(
        text=text,
        extent=str(answer["extent"]),
        title=answer.get("title") or None,
        pages=answer.get("pages"),
        notes=tuple(answer.get("notes", ())),
        hidden=str(answer.get("hidden", "")),
    )


def _bytes(path: Path, limits: Limits) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limits.file_bytes + 1)
    except FileNotFoundError:
        raise Unreadable("missing", f"{path.name}: there is no such file.", "Check the path.") from None
    except OSError as error:
        raise Unreadable(
            "missing", f"{path.name}: the file could not be opened ({error.strerror or type(error).__name__}).", "Check its rights."
        ) from None
    if len(data) > limits.file_bytes:
        size = limits.file_bytes / _MIB
        raise Unreadable(
            "too_large",
            f"{path.name}: expected at most {size:g} MB; the file is larger.",
            "Split it, or hand over the chapters that matter.",
        )
    if not data.strip():
        raise Unreadable("empty", f"{path.name}: the file is empty.", "Download or export it again.")
    return data


# The first bytes of what people rename by mistake.
_MAGIC = (
    (b"%PDF-", "pdf", "a PDF"),
    (b"PK\x03\x04", "epub", "a zip archive (EPUB, DOCX, ...)"),
    (b"\x89PNG", None, "a PNG picture"),
    (b"\xff\xd8\xff", None, "a JPEG picture"),
    (b"GIF8", None, "a GIF picture"),
    (b"\x1f\x8b", None, "gzip data"),
    (b"\xd0\xcf\x11\xe0", None, "an old Office file"),
    (b"\x7fELF", None, "a program"),
    (b"MZ\x90\x00", None, "a program"),
)


def _refuse_other_content(name: str, kind: str, data: bytes) -> None:
    head = data[:1024]
    for magic, owner, words in _MAGIC:
        if head.lstrip().startswith(magic) and owner != kind:
            raise Unreadable(
                "wrong_content", f"{name}: expected {_WORDS[kind]}; found {words}.", "Rename it to what it is, or hand over the right file."
            )
    if kind == "pdf" and b"%PDF-" not in head:
        raise Unreadable(
            "wrong_content",
            f"{name}: expected a PDF; its first bytes are not a PDF's.",
            "Download it again; a login page is often saved instead.",
        )
    if kind == "epub" and not head.startswith(b"PK"):
        raise Unreadable("wrong_content", f"{name}: expected an EPUB; its first bytes are not a zip archive's.", "Download it again.")


_WORDS = {"pdf": "a PDF", "epub": "an EPUB", "html": "an HTML page", "markdown": "Markdown text", "captions": "captions (VTT or SRT)"}


def _ask_child(name: str, kind: str, data: bytes, limits: Limits) -> dict[str, Any]:
    command = [sys.executable, "-I", "-m", "pipeline.readers", kind, str(limits.memory_bytes), str(limits.cpu_s), str(limits.characters)]
    try:
        # cwd "/" and an empty environment: nothing near the parser says where it runs or holds a key.
        done = subprocess.run(
            command,
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limits.wall_s,
            check=False,
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(name, f"{limits.wall_s:g} seconds") from None
    if done.returncode < 0:  # ended by a signal: the kernel's CPU limit is SIGXCPU (24), then SIGKILL (9)
        if -done.returncode in (9, 24):
            raise _too_slow(name, f"{limits.cpu_s} seconds of computing")
        raise Unreadable(
            "broken", f"{name}: the reader crashed (signal {-done.returncode}).", "The file may be damaged or made to harm; leave it out."
        )
    with contextlib.suppress(ValueError):
        answer = json.loads(done.stdout)
        if isinstance(answer, dict):
            return answer
    raise Unreadable(
        "memory", f"{name}: the reader ended without an answer; it may need more than {limits.memory_bytes / _MIB:g} MB of memory.", _SPLIT
    )


_SPLIT = "Leave it out, or split it into smaller files."


def _too_slow(name: str, limit: str) -> Unreadable:
    return Unreadable("too_slow", f"{name}: reading it takes longer than {limit}.", _SPLIT)


# ------------------------------------------------------------------------------------------------------------------------------ passages

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"')\]]*\s+|(?<=[。！？])")  # noqa: RUF001 - full-width ends of sentences


def passages(text: str, *, size: int = PASSAGE, limit: int = MAX_PASSAGES) -> tuple[str, ...]:
    """Pieces of at most `size` characters, cut at paragraphs, else at sentences, else at words; evenly chosen over the text if there are more than `limit`.

    Without the limit the pieces hold every word of the text, in order. Raises ValueError for a size or limit below 1.
    """
    if size < 1 or limit < 1:
        raise ValueError(f"Passages need a size and a limit of at least 1; found {size} and {limit}.")
    packed = list(_packed(text, size))
    if len(packed) <= limit:
        return tuple(packed)
    if limit == 1:
        return (packed[len(packed) // 2],)
    return tuple(packed[round(i * (len(packed) - 1) / (limit - 1))] for i in range(limit))


def _packed(text: str, size: int) -> Iterator[str]:
    pending = ""
    for paragraph in re.split(r"\n\s*\n", text):
        for number, piece in enumerate(_pieces(paragraph.strip(), size)):
            joint = " " if number else "\n\n"
            if pending and len(pending) + len(joint) + len(piece) > size:
                yield pending
                pending = piece
            else:
                pending = pending + joint + piece if pending else piece
    if pending:
        yield pending


def _pieces(paragraph: str, size: int) -> Iterator[str]:
    """A paragraph that fits, or its sentences, or the words of a sentence that is too long itself."""
    if not paragraph:
        return
    if len(paragraph) <= size:
        yield paragraph
        return
    for sentence in (part.strip() for part in _SENTENCE_END.split(paragraph)):
        rest = sentence
        while len(rest) > size:
            cut = rest.rfind(" ", 1, size + 1)
            cut = cut if cut > 0 else size
            yield rest[:cut].strip()
            rest = rest[cut:].strip()
        if rest:
            yield rest
