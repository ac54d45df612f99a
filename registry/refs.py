"""The grammar of names: elena, elena@7, elena@live, sha256:<64 hex>.

Pure. `parse(format(ref)) == ref` holds for every reference. A colon never appears in an advisor's or an alias's name, because serving engines
write `base:adapter` in their model names.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from registry.errors import Invalid

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
# Words that would make a reference ambiguous, or a Source Card: its state is an alias, "version", "none" or "withheld".
RESERVED_ALIASES = frozenset({"latest", "versions", "version", "sha256", "none", "withheld"})


@dataclass(frozen=True)
class ByNumber:
    """`elena@7`: one version, for ever."""

    advisor: str
    number: int


@dataclass(frozen=True)
class ByAlias:
    """`elena@live`: whatever the alias points to now."""

    advisor: str
    alias: str


@dataclass(frozen=True)
class ByDigest:
    """`sha256:...`: the version with this digest, whichever advisor it belongs to."""

    digest: str


Ref = ByNumber | ByAlias | ByDigest


def check_slug(value: str, what: str = "advisor") -> str:
    """Return `value` if it is a slug; raise Invalid with the rule and the offending character otherwise."""
    if SLUG.fullmatch(value):
        return value
    bad = next((c for c in value if not re.fullmatch(r"[a-z0-9_-]", c)), None)
    if not value:
        found = "an empty name"
    elif bad is not None:
        found = f"the character {unicodedata.name(bad, f'U+{ord(bad):04X}')} in {value[:80]!a}"
    else:
        found = f"{value[:80]!a}, {len(value)} characters"
    raise Invalid(
        f"A name of an {what} is 1-63 characters of a-z, 0-9, '-' and '_', starting with a letter or digit; found {found}.",
        hint="Use lower case without spaces, such as dr-elena.",
    )


def check_alias(value: str) -> str:
    """Return `value` if it may name an alias (live, candidate, any slug that is no number)."""
    check_slug(value, "alias")
    if value in RESERVED_ALIASES or value.isdecimal():
        raise Invalid(
            f"'{value}' cannot name an alias: numbers and {', '.join(sorted(RESERVED_ALIASES))} are reserved.",
            hint="Use live, candidate or another word.",
        )
    return value


def check_digest(value: str) -> str:
    """Return `value` if it is sha256:<64 lower-case hex digits>."""
    if DIGEST.fullmatch(value):
        return value
    raise Invalid(f"A digest is 'sha256:' and 64 lower-case hex digits; found {value[:80]!a}.")


def parse(text: str) -> Ref:
    """Parse a reference; raise Invalid with the three forms when it is none of them."""
    if text.startswith("sha256:"):
        return ByDigest(check_digest(text))
    advisor, at, tail = text.partition("@")
    if not at or not tail:
        raise Invalid(
            f"Expected a version such as elena@2, elena@live or sha256:...; found {text[:120]!a}.",
            hint=f"Try {advisor}@live." if SLUG.fullmatch(advisor) else None,
        )
    check_slug(advisor)
    if _NUMBER.fullmatch(tail):
        return ByNumber(advisor, int(tail))
    return ByAlias(advisor, check_alias(tail))


def format_ref(ref: Ref) -> str:
    """Write a reference so that `parse` reads the same one back."""
    match ref:
        case ByNumber(advisor, number):
            return f"{advisor}@{number}"
        case ByAlias(advisor, alias):
            return f"{advisor}@{alias}"
        case ByDigest(digest):
            return digest


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, or None; for 'did you mean' hints."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def clean_text(value: str, what: str, *, limit: int = 2000, multiline: bool = False) -> str:
    """Refuse text that a page or a terminal could not show honestly: NUL, other control characters, bidirectional overrides.

    Returns the text in NFC. `limit` counts characters. Raises Invalid and names the character.
    """
    if len(value) > limit:
        raise Invalid(f"{what} may have at most {limit} characters; found {len(value)}.")
    allowed = "\n\t" if multiline else ""
    for char in value:
        category = unicodedata.category(char)
        if (
            (category == "Cc" and char not in allowed)
            or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u2028\u2029"
            or category == "Cs"
        ):
            raise Invalid(
                f"{what} holds a control character that is not allowed: U+{ord(char):04X}.", hint="Remove it and send the text again."
            )
    return unicodedata.normalize("NFC", value)
