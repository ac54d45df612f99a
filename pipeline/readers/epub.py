"""EPUB: its chapters in reading order, by zipfile and the HTML reader. Runs in the child; entries are read into memory by name, never to a path.

An EPUB is a zip archive, so it can be a bomb: entries, the ratio and the sum of what is unpacked are counted while reading, not believed from the header.
Its XML is read by an HTML parser, which knows no entity definitions; a file that defines some is refused all the same.
"""

import io
import posixpath
import re
import zipfile
import zlib
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag

from pipeline.readers.html import page, tree
from pipeline.readers.parsed import Broken, Parsed, tidy

MAX_ENTRIES = 5000
MAX_UNPACKED = 100_000_000  # bytes, over all that is read
MAX_RATIO = 200  # text packs 3 to 10 times; 200 leaves room for a table of zeros
_SMALL = 1_000_000  # bytes; below this no ratio is harmful
_BOMB = "The file may be made to harm; leave it out."
_DAMAGED = "Download or export it again."


def parse(data: bytes, characters: int) -> Parsed:
    """The spine's documents in order. Raises Broken for an archive that is damaged, locked or a bomb."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read(_Box(archive), characters)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as fault:
        raise Broken("broken", f"the EPUB is damaged ({type(fault).__name__}).", _DAMAGED) from None
    except KeyError:
        raise Broken("broken", "the EPUB names a part that it does not hold.", _DAMAGED) from None


class _Box:
    """The archive's entries by name, with one budget for all that is unpacked."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive, self._left = archive, MAX_UNPACKED
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise Broken("too_large", f"expected at most {MAX_ENTRIES} parts in an EPUB; found {len(entries)}.", _BOMB)
        if any(entry.flag_bits & 1 for entry in entries):
            raise Broken("encrypted", "the EPUB is locked with a password.", "Save a copy without a password.")
        if sum(
            entry.file_size for entry in entries if entry.file_size > _SMALL and entry.file_size > MAX_RATIO * max(1, entry.compress_size)
        ):
            raise Broken("too_large", "the EPUB unpacks to far more than its size, as a bomb does.", _BOMB)
        self.names = frozenset(entry.filename for entry in entries)

    def read(self, name: str) -> bytes:
        """One entry. Raises KeyError where there is none, Broken when the budget is spent."""
        with self._archive.open(name) as file:
            data = file.read(self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise Broken("too_large", f"the EPUB unpacks to more than {MAX_UNPACKED // 1_000_000} MB.", _BOMB)
        return data

    def xml(self, name: str) -> BeautifulSoup:
        """One entry as parsed XML. Raises Broken where it defines entities."""
        text = self.read(name).decode("utf-8", errors="replace")
        if re.search(r"<!ENTITY", text, re.IGNORECASE):
            raise Broken("broken", "its XML defines entities, which no book needs and bombs do.", _BOMB)
        return tree(text)


def _read(box: _Box, characters: int) -> Parsed:
    package = _package(box)
    book = box.xml(package)
    chapters = _spine(book, package)
    if not chapters:
        raise Broken("broken", "the EPUB lists no chapter.", _DAMAGED)
    _refuse_locked(box, chapters)
    texts, hidden, missing = [], [], 0
    length = read = 0
    for name in chapters:
        if length > characters:
            break
        read += 1
        if name not in box.names:
            missing += 1
            continue
        markup = box.read(name).decode("utf-8-sig", errors="replace")
        if re.search(r"<!ENTITY", markup, re.IGNORECASE):
            raise Broken("broken", "a chapter defines XML entities, which no book needs and bombs do.", _BOMB)
        text, _, unseen = page(markup)
        texts.append(text)
        hidden.append(unseen)
        length += len(text)
    if not any(text.strip() for text in texts):
        raise Broken("no_text", "the EPUB holds no text (a book of pictures, or its chapters are missing).", _DAMAGED)
    unseen = tidy("\n".join(hidden))
    notes = [f"{missing} of {len(chapters)} chapters are missing in the file."] if missing else []
    notes += [f"Only the first {read} of {len(chapters)} chapters were read."] if read < len(chapters) else []
    cut = bool(missing) or read < len(chapters)
    return Parsed(tidy("\n\n".join(texts)), title=_title(book), pages=len(chapters), notes=tuple(notes), hidden=unseen, cut=cut)


def _package(box: _Box) -> str:
    if "META-INF/container.xml" not in box.names:
        raise Broken(
            "wrong_content",
            "expected an EPUB; found a zip archive without META-INF/container.xml.",
            "Check that this is the file you mean.",
        )
    root = box.xml("META-INF/container.xml").find("rootfile")
    name = str(root.get("full-path", "")) if isinstance(root, Tag) else ""
    if name not in box.names:
        raise Broken("broken", "the EPUB does not say where its contents are.", _DAMAGED)
    return name


def _spine(book: BeautifulSoup, package: str) -> list[str]:
    """Names of the chapters in reading order, each once."""
    folder = posixpath.dirname(package)
    items = {str(tag.get("id")): str(tag.get("href", "")) for tag in book.find_all(re.compile(r"^(?:\w+:)?item$"))}
    order = [items.get(str(tag.get("idref")), "") for tag in book.find_all(re.compile(r"^(?:\w+:)?itemref$"))]
    names = [posixpath.normpath(posixpath.join(folder, unquote(href.partition("#")[0]))) for href in order if href]
    return list(dict.fromkeys(names))


def _refuse_locked(box: _Box, chapters: list[str]) -> None:
    """Fonts may be scrambled; a chapter in the list of encrypted parts means copy protection."""
    if "META-INF/encryption.xml" not in box.names:
        return
    locked = {unquote(str(tag.get("uri", ""))) for tag in box.xml("META-INF/encryption.xml").find_all(re.compile("cipherreference$"))}
    if locked & set(chapters):
        raise Broken("encrypted", "the EPUB is copy-protected.", "Use a copy without protection, if its owner allows it.")


def _title(book: BeautifulSoup) -> str | None:
    tag = book.find("dc:title")
    return tidy(tag.get_text()) or None if isinstance(tag, Tag) else None
