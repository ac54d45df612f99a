"""How the gate speaks: every problem says what was expected, what was found and what to do.

Whatever an uploader wrote is shown shortened and in ASCII, so that no control character, bidirectional override or megabyte of text reaches a page,
a log or a terminal through an error.
"""

import json
import reprlib
from collections.abc import Iterable

# A broken adapter is usually broken in hundreds of tensors at once; three names show the pattern, the count shows the extent.
_NAMED = 3
_LONGEST = 120

_repr = reprlib.Repr()
_repr.maxlevel = 2
_repr.maxlist = _repr.maxdict = 4
_repr.maxstring = _repr.maxother = _repr.maxlong = 100  # a tensor's name has 60 to 70 characters


def shown(value: object) -> str:
    """A value from outside as a short ASCII text, in JSON's spelling where it has one."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        text = _repr.repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits has no repr; a deep nest may have none either
        text = f"a value too large to show ({type(value).__name__})"
    text = text.encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def few(items: Iterable[str]) -> str:
    """`a, b, c and 5 more`."""
    names = list(items)
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def sentence(file: str, expected: str, found: str, todo: str) -> str:
    """One problem in the house form."""
    return f"{file}: expected {expected}, found {found}. {todo}"


class Faults:
    """The problems of one file. Faults against the same rule become one sentence that names the first few and counts the rest."""

    def __init__(self, file: str) -> None:
        """Collect for `file`, the name that opens each sentence."""
        self._file = file
        self._found: dict[tuple[str, str], list[str]] = {}

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self._found)

    def add(self, expected: str, found: str, todo: str) -> None:
        """Note one breach of the rule `expected`; `found` names what was met and where."""
        self._found.setdefault((expected, todo), []).append(found)

    def sentences(self) -> list[str]:
        """One sentence per broken rule, in the order in which they were met."""
        return [sentence(self._file, expected, few(found), todo) for (expected, todo), found in self._found.items()]
