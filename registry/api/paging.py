"""Lists in parts: the address of the next part. The cursor's own grammar is lineage.paging's."""

from typing import Any
from urllib.parse import urlencode

from lineage.paging import decode_cursor, encode_cursor

DEFAULT = 50


def after_number(cursor: str | None, start: int = 0) -> int:
    """The row number in a cursor, or `start`."""
    return start if cursor is None else int(decode_cursor(cursor, (int,))[0])


def after_text(cursor: str | None) -> str:
    """The text in a cursor, or nothing."""
    return "" if cursor is None else str(decode_cursor(cursor, (str,))[0])


def next_link(path: str, limit: int, key: str | int | None, **query: Any) -> str | None:
    """The address of the part after the row with this key; None where there is none."""
    if key is None:
        return None
    asked = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode({**asked, 'limit': limit, 'cursor': encode_cursor(key)})}"
