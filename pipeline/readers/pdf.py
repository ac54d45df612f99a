"""PDF by pypdf: the text of each page. Runs in the child.

A PDF can hold white, tiny or covered text; no reader can tell cheaply, so all of it is read and all of it is searched for planted instructions.
Pictures are not looked at: a scan without a text layer has no text.
"""

import io
import logging

from pypdf import PdfReader
from pypdf.errors import DependencyError, EmptyFileError, FileNotDecryptedError, LimitReachedError, PyPdfError

from pipeline.readers.parsed import Broken, Parsed, tidy

MAX_PAGES = 2000  # a handbook has 1,500
_TEXT_PER_PAGE = 8  # letters; page numbers and stamps alone are no text layer
_LOCKED = "Save a copy without a password (print to PDF in most viewers), if its owner allows it."
_DAMAGED = "The file may be damaged or made to harm; download it again or leave it out."


def parse(data: bytes, characters: int) -> Parsed:
    """The pages' text in order. Raises Broken for an encrypted, scanned or damaged file."""
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(data))
        _unlock(reader)
        return _read(reader, characters)
    except (FileNotDecryptedError, DependencyError):
        raise Broken("encrypted", "the PDF is encrypted.", _LOCKED) from None
    except LimitReachedError:
        raise Broken("too_large", "the PDF unpacks to far more than its size, as a bomb does.", _DAMAGED) from None
    except EmptyFileError:
        raise Broken("empty", "the PDF is empty.", _DAMAGED) from None
    except PyPdfError as fault:
        raise Broken("broken", f"the PDF is damaged ({type(fault).__name__}).", _DAMAGED) from None


def _unlock(reader: PdfReader) -> None:
    """Open a file whose user password is empty, as every viewer does. Raises Broken where one is needed."""
    if reader.is_encrypted and not reader.decrypt(""):
        raise Broken("encrypted", "the PDF is encrypted and asks for a password.", _LOCKED)


def _read(reader: PdfReader, characters: int) -> Parsed:
    count = len(reader.pages)
    texts: list[str] = []
    length = 0
    for page in reader.pages:
        if len(texts) >= MAX_PAGES or length > characters:
            break
        texts.append(page.extract_text() or "")
        length += len(texts[-1])
    letters = sum(c.isalpha() for text in texts for c in text)
    if letters < _TEXT_PER_PAGE * max(1, len(texts)):
        raise Broken(
            "no_text",
            f"the PDF holds no text ({count} pages of pictures or nothing).",
            "Run text recognition first, such as `ocrmypdf in.pdf out.pdf`.",
        )
    cut = len(texts) < count
    notes = (f"Only the first {len(texts)} of {count} pages were read.",) if cut else ()
    return Parsed(tidy("\n\n".join(texts)), title=_title(reader), pages=count, notes=notes, cut=cut)


def _title(reader: PdfReader) -> str | None:
    title = reader.metadata.title if reader.metadata else None
    return tidy(str(title)) or None if title else None
