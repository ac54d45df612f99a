"""JSON from strangers: UTF-8 only (its escapes too), one object, no key twice, no NaN.

Python's parser is more lenient than the ones that read these files later (serde in safetensors, JavaScript in browsers): what
two readers could understand differently is refused here.
"""

import json
import re
from collections import Counter
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that is half of a character; alone it is none, and no UTF-8 can be made of it


def load_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises ValueError, with a short clause that completes 'found ...'."""
    try:
        text = raw.decode("utf-8")  # json.loads would guess UTF-16 and UTF-32 from bytes
    except UnicodeDecodeError as error:
        raise ValueError(f"bytes that are not UTF-8 at position {error.start}") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON at character {error.pos}") from None
    except UnicodeEncodeError:
        raise ValueError("text that cannot be written as UTF-8, because it has half a character (a lone surrogate)") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}")  # noqa: TRY004 (every fault of the text is a ValueError to the caller)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless one of its keys stands twice: readers disagree on which one counts."""
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0][:80]!a} twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name}, which is not JSON")


def _whole(digits: str) -> int | float:
    """An integer; `-0` becomes the float it is elsewhere (serde refuses it as a size). Python refuses more than 4300 digits with ValueError."""
    if digits == "-0":
        return -0.0
    try:
        return int(digits)
    except ValueError:
        raise ValueError(f"a number of {len(digits)} digits") from None
