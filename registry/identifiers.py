"""What a source is called: a DOI, or one canonical http(s) URL. Pure.

A DOI wins over a URL and is compared in lower case (DOI Handbook 2.4: names are case-insensitive). A URL is cleaned by RFC 3986 alone; its query is
kept, because dropping parameters can turn one page into another. Nothing here is ever fetched.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from url_normalize import url_normalize

from registry.errors import Invalid

_DOI = re.compile(r"10\.\d{4,9}/\S+", re.ASCII)  # Crossref's recommended pattern, loosened in the suffix
_DOI_HOSTS = frozenset({"doi.org", "dx.doi.org", "www.doi.org"})
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069<>\"\\^`{|}]")
MAX_URL = 2000
MAX_DOI = 250  # Crossref has none beyond 200


@dataclass(frozen=True)
class Identifier:
    """`key` is unique per work (doi:... or the canonical URL); `url` is where a person may click."""

    key: str
    url: str
    doi: str | None = None


def identify(text: str) -> Identifier:
    """Read a DOI in any usual spelling, or an http(s) URL. Raises Invalid, naming what was found, for everything else."""
    value = text.strip()
    doi = _doi_in(value)
    if doi is not None:
        # Encoded as the DOI Handbook asks (3.8.2.2): a DOI may hold '?', '#' and '%', which mean something else in a URL.
        return Identifier(key=f"doi:{doi}", url="https://doi.org/" + quote(doi, safe="/:;()-._~"), doi=doi)
    url = canonical_url(value)
    return Identifier(key=url, url=url)


def _doi_in(value: str) -> str | None:
    """The lower-cased DOI in a bare DOI, doi:..., or a doi.org URL; None in anything else."""
    bare = re.sub(r"^doi:\s*", "", value, flags=re.IGNORECASE)
    if "://" in bare:
        try:
            parts = urlsplit(bare)
        except ValueError:
            return None
        if (parts.hostname or "").lower() not in _DOI_HOSTS:
            return None
        bare = unquote(parts.path.lstrip("/"))
    if len(bare) > MAX_DOI or not _DOI.fullmatch(bare) or _FORBIDDEN.sub("", bare) != bare:
        return None
    return bare.lower()


def canonical_url(value: str) -> str:
    """One spelling of an http(s) URL: scheme and host in lower case, default port and fragment gone. Raises Invalid otherwise."""
    if len(value) > MAX_URL:
        raise Invalid(f"A source's URL may have at most {MAX_URL} characters; found {len(value)}.")
    bad = _FORBIDDEN.search(value)
    if bad:
        raise Invalid(f"A source's URL holds the character U+{ord(bad.group()):04X}, which no URL may hold: {value[:120]!a}.")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise Invalid(f"A source is named by an http(s) URL or a DOI; {value[:120]!a} is not a valid URL.") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise Invalid(f"A source is named by an http(s) URL or a DOI; found {value[:120]!a}.", hint="Use https://... or doi:10....")
    if parts.username is not None or parts.password is not None:
        raise Invalid("A source's URL may not hold a user name or a password.", hint="Remove the part before '@'.")
    if port == 0:
        raise Invalid(f"A source's URL names port 0: {value[:120]!a}.")
    return _normalised(value.partition("#")[0], value)


def _normalised(url: str, shown: str) -> str:
    """RFC 3986 normalisation, until nothing changes any more: one pass can uncover what the next one changes. Raises Invalid."""
    for _ in range(5):
        try:
            cleaned = url_normalize(url, filter_params=False)
            host = urlsplit(cleaned or "").hostname
        except (ValueError, UnicodeError):
            break
        if not cleaned or not host or _FORBIDDEN.search(cleaned):
            break
        if cleaned == url and len(cleaned) <= MAX_URL:
            return cleaned
        url = cleaned
    raise Invalid(f"A source is named by an http(s) URL or a DOI; {shown[:120]!a} is not a valid URL.")
