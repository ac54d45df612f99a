"""The child that parses one document: limits first, then the parser's import, bytes from stdin, one JSON object to stdout.

Arguments: format, bytes of memory, seconds of CPU, characters of text. The answer holds text, extent, title, pages, notes and hidden; or error, message
and hint. A limit that this system does not know (RLIMIT_AS on macOS) is left out; the parent's clock still holds.
"""

import contextlib
import importlib
import json
import sys
from typing import Any

from pipeline.readers.parsed import HIDDEN_KEPT, Broken, Parsed, hidden_note, invisible, tidy
from pipeline.safety import clean

_PARSERS = ("pdf", "epub", "html", "markdown", "captions")


def limit(memory: int, cpu: int) -> None:
    """Set this process's own limits; they cannot be raised again."""
    import resource

    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))


def parse(kind: str, data: bytes, characters: int) -> dict[str, Any]:
    """The answer for one document, faults included; raises nothing that a document can cause."""
    try:
        parser = importlib.import_module(f"pipeline.readers.{kind}")
        return _answer(parser.parse(data, characters), characters)
    except Broken as fault:
        return {"error": fault.reason, "message": fault.message, "hint": fault.hint}
    except MemoryError:
        return {
            "error": "memory",
            "message": "reading it needs more memory than one document may have.",
            "hint": "Leave it out, or split it into smaller files.",
        }
    except RecursionError:
        return {
            "error": "broken",
            "message": "its parts are nested too deeply to read.",
            "hint": "The file may be damaged or made to harm; leave it out.",
        }
    except Exception as fault:  # noqa: BLE001 - a parser may raise anything on bytes made to break it; the parent gets a sentence
        return {
            "error": "broken",
            "message": f"it could not be read ({type(fault).__name__}).",
            "hint": "The file may be damaged; export or download it again.",
        }


def _answer(parsed: Parsed, characters: int) -> dict[str, Any]:
    # Cleaning takes invisible characters away, so what they say is kept for the search first.
    concealed = "\n".join(part for part in (parsed.hidden, invisible(f"{parsed.title or ''}\n{parsed.text[:characters]}")) if part)
    text = tidy(clean(parsed.text))
    short = len(text) > characters
    notes = [*parsed.notes, *hidden_note(concealed)]
    if short:
        notes.append(f"Only the first {characters} characters were read.")
    return {
        "text": text[:characters],
        "extent": "excerpt" if parsed.cut or short else "full_text",
        "title": tidy(clean(parsed.title or ""))[:500] or None,
        "pages": parsed.pages,
        "notes": notes,
        "hidden": concealed[:HIDDEN_KEPT],
    }


def main() -> None:
    """Read stdin, write the answer."""
    kind, memory, cpu, characters = sys.argv[1:5]
    if kind not in _PARSERS:
        raise SystemExit(f"unknown format {kind!a}")
    limit(int(memory), int(cpu))
    answer = parse(kind, sys.stdin.buffer.read(), int(characters))
    sys.stdout.buffer.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
