"""HTML by BeautifulSoup's built-in parser: what a reader of the page sees, without menus. Runs in the child; loads nothing the page names.

Hidden elements are told by attribute, inline style, and style rules with a plain class or id; a script's doing is not known.
"""

import codecs
import re
import warnings

from bs4 import BeautifulSoup, CData, Comment, Tag, XMLParsedAsHTMLWarning
from bs4.dammit import EncodingDetector
from bs4.element import NavigableString, PageElement

from pipeline.readers.parsed import Broken, Parsed, decode, tidy
from pipeline.safety import scan

_DROPPED = (
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "math",
    "iframe",
    "object",
    "canvas",
    "button",
    "select",
    "textarea",
    "input",
    "dialog",
)
_FURNITURE = ("nav", "footer", "aside", "form", "menu")
_BLOCKS = [
    "address",
    "article",
    "blockquote",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "ol",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "tr",
    "ul",
]
_CELLS = ("td", "th")
_BREAK = "\x1e"  # the record separator stands for a paragraph's border until white space is folded
_UNSEEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|opacity\s*:\s*(?:0(?:\.0\d*)?|\.0\d*)\s*(?:[;!}]|$)|font-size\s*:\s*(?:0(?:\.0\d*)?|\.0\d*)(?:px|pt|em|rem|%)?\s*(?:[;!}]|$)"
    r"|font-size\s*:\s*1(?:\.0+)?px|text-indent\s*:\s*-\d{3,}|(?:left|top|right)\s*:\s*-\d{4,}|clip\s*:\s*rect\(\s*0|clip-path\s*:\s*inset\(\s*(?:50|100)%"
    r"|color\s*:\s*transparent|(?:max-)?(?:height|width)\s*:\s*0(?:px)?\s*(?:[;!}]|$)|transform\s*:\s*scale\(\s*0",
    re.IGNORECASE,
)
_RULES = re.compile(r"([^{}]{1,500})\{([^{}]{0,2000})\}")
_NAMED = re.compile(r"\s*\w*([.#])([\w-]+)\s*$")
_READER_ONLY = re.compile(r"\b(?:sr-only|visually-?hidden|screen-reader-text|d-none|is-hidden)\b", re.IGNORECASE)
MAX_STYLES = 200_000  # characters of style rules that are looked through


def parse(data: bytes, characters: int) -> Parsed:  # noqa: ARG001 - every parser has the same form
    """The main text of a page. Raises Broken for bytes that hold no HTML."""
    markup, notes = _markup(data)
    if "<" not in markup:
        raise Broken("wrong_content", "expected an HTML page; found no tag.", "Rename plain text to .md.")
    text, title, hidden = page(markup)
    return Parsed(text, title=title, notes=notes, hidden=hidden)


def _markup(data: bytes) -> tuple[str, tuple[str, ...]]:
    """The page as text: by its mark, its own declaration, as UTF-8, else as Windows-1252 with a note, as browsers do."""
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return decode(data), ()
    declared = EncodingDetector.find_declared_encoding(data, is_html=True, search_entire_document=False)
    for name in (declared, "utf-8"):
        try:
            if name:
                return _text_only(data.decode(name)), ()
        except (UnicodeDecodeError, LookupError):
            continue
    return _text_only(data.decode("cp1252", errors="replace")), (
        "The page does not say its encoding and is not UTF-8; it was read as Windows-1252.",
    )


def _text_only(text: str) -> str:
    if "\x00" in text:
        raise Broken("wrong_content", "expected an HTML page; found binary data.", "Check that this is the file you mean.")
    return text


def tree(markup: str) -> BeautifulSoup:
    """Markup as a tree; XML too, on purpose, because this parser knows no entity definitions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        return BeautifulSoup(markup, "html.parser")


def page(markup: str) -> tuple[str, str | None, str]:
    """(text, title, hidden text) of HTML or XHTML markup."""
    soup = tree(markup)
    title = _title(soup)
    unseen = _unseen_names(soup)
    hidden = [str(comment) for comment in soup.find_all(string=lambda string: isinstance(string, Comment))]
    hidden = [words for words in hidden if not words.lstrip().startswith("[if")]
    aside: list[str] = []  # searched, but no news: descriptions and labels that every page has
    for tag in soup.find_all(["meta", "img", "input"]):
        aside += [str(tag.get(name)) for name in ("content", "alt", "value") if tag.get(name)]
    _drop(soup, list(_DROPPED))
    for tag in soup.find_all(lambda tag: _is_hidden(tag, unseen)):
        if not tag.decomposed:
            hidden.append(tag.get_text(" "))
            tag.decompose()
    for comment in soup.find_all(string=lambda string: isinstance(string, Comment)):
        comment.extract()
    _drop(soup, list(_FURNITURE))
    return _visible(_main(soup)), title, tidy("\n".join([*hidden, *aside])) if any(h.strip() for h in hidden) else _searched(aside)


def _searched(aside: list[str]) -> str:
    """Descriptions are kept only where something in them is addressed to a model: else every page would be called one with hidden text."""
    text = tidy("\n".join(aside))
    return text if scan(text) else ""


def _drop(soup: BeautifulSoup, names: list[str]) -> None:
    for tag in soup.find_all(names):
        if not tag.decomposed:
            tag.decompose()


def _title(soup: BeautifulSoup) -> str | None:
    for name in ("title", "h1"):
        tag = soup.find(name)
        if isinstance(tag, Tag) and (words := " ".join(tidy(tag.get_text(" ")).split())):
            return words
    return None


def _unseen_names(soup: BeautifulSoup) -> tuple[frozenset[str], frozenset[str]]:
    """Classes and ids that a style rule of the page hides."""
    styles = " ".join(tag.get_text() for tag in soup.find_all("style"))[:MAX_STYLES]
    classes: set[str] = set()
    ids: set[str] = set()
    for selectors, body in _RULES.findall(styles):
        if _UNSEEN.search(body):
            for selector in selectors.split(","):
                if match := _NAMED.match(selector):
                    (classes if match.group(1) == "." else ids).add(match.group(2))
    return frozenset(classes), frozenset(ids)


def _is_hidden(tag: Tag, unseen: tuple[frozenset[str], frozenset[str]]) -> bool:
    if tag.name in ("html", "body"):
        return False  # many pages hide the body until a script ran
    names = " ".join(map(str, tag.get_attribute_list("class")))
    return (
        tag.has_attr("hidden")
        or str(tag.get("aria-hidden", "")).lower() == "true"
        or _UNSEEN.search(str(tag.get("style", ""))) is not None
        or _READER_ONLY.search(names) is not None
        or not unseen[0].isdisjoint(names.split())
        or str(tag.get("id", "")) in unseen[1]
    )


def _main(soup: BeautifulSoup) -> Tag:
    """The page's main part where it names one that holds most of what it says, else all of it."""
    for name in ("main", "article"):
        found = soup.find_all(name)
        if len(found) == 1 and found[0].get_text(strip=True):
            return found[0]
    body = soup.find("body")
    return body if isinstance(body, Tag) else soup


def _visible(root: Tag) -> str:
    """The text with paragraphs. A walk with its own stack, once over the tree: deep nesting costs neither Python's stack nor the square of its depth."""
    pieces: list[str] = []
    todo: list[PageElement | str] = [root]
    while todo:
        node = todo.pop()
        if not isinstance(node, Tag):
            if type(node) in (str, NavigableString, CData):  # no doctype, no processing instruction
                pieces.append(str(node))
            continue
        if node.name == "br":
            todo.append("\x1f")
        around = _BREAK if node.name in _BLOCKS else ""
        pieces.append(around)
        todo.append(around or (" " if node.name in _CELLS else ""))
        todo.extend(reversed(node.contents))
    folded = re.sub(r"[ \t\r\n\f\u00a0]+", " ", "".join(pieces))
    return tidy(re.sub(rf"[ {_BREAK}]*{_BREAK}[ {_BREAK}]*", "\n\n", folded).replace("\x1f", "\n"))
