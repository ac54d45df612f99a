"""Cursors of keyset pages: where the next page begins, as one opaque word. Pure.

A cursor holds the sort key of the last row that was shown, and nothing secret: it is checked like any other input, and a forged one only names another
place in a list that its reader may see anyway.
"""

import base64
import binascii
import json
from collections.abc import Sequence

from registry.errors import Invalid

_LONGEST = 4000  # a source's key may have 2100 characters, and base64 adds a third
_LARGEST = 2**53  # what a JSON number holds exactly; far above every row number


def encode_cursor(*key: str | int) -> str:
    """The cursor after the row with this sort key."""
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, shape: Sequence[type[str] | type[int]]) -> list[str | int]:
    """The sort key in a cursor. Raises Invalid where it was not made by `encode_cursor` with a key of this shape."""
    key = _read(cursor)
    fits = len(key) == len(shape) and all(type(part) is kind for part, kind in zip(key, shape, strict=True))
    if not key or not fits or not all(_harmless(part) for part in key):
        raise Invalid("The cursor is not one that this server gave.", hint="Start without a cursor, then follow 'next'.")
    return key


def _read(cursor: str) -> list[str | int]:
    """What a cursor holds; nothing where it is none."""
    if len(cursor) > _LONGEST or not cursor.isascii():
        return []
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        value = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True).decode())
    except (binascii.Error, ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def _harmless(part: str | int) -> bool:
    """No number that a database cannot hold, no text that Postgres refuses."""
    if isinstance(part, int):
        return 0 <= part <= _LARGEST
    return "\0" not in part and not any("\ud800" <= c <= "\udfff" for c in part)
