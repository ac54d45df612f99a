"""Which source may carry advice, which may only shape a question, and which is left out. Pure but for its own list of publishers (standards.json).

A page is decided by the first rule that fits, in this order:
 1. user.denied            a person refused the domain; nothing wins over this
 2. never.ai-generated     the text says that a model wrote it, or the host gives out models' answers
 3. never.retracted        the title says so
 4. user.allowed           a person vouches for the domain; under a host of posts only for a narrower name (ann.substack.com, not substack.com)
 5. never.social, never.no-author, then forum.question-only
 6. the known publishers: the longest domain that fits wins (pubmed.ncbi.nlm.nih.gov is a publisher's, the rest of .gov a government's)
 7. web.unknown-publisher  everything else: refused until a person vouches for it
   Hosts of a university are its own pages only: what its people keep there (`/~name`, sites., blogs., students.) names no publisher.
Papers: user.denied, never.ai-generated, never.retracted, never.no-author, paper.preprint, paper.journal, paper.named-author.
Documents: user.denied, never.ai-generated, never.retracted, document.no-citation, document.cited. Threads: user.denied, forum.question-only.

A domain stands for itself and for what ends in '.' and the domain; never for a text that merely contains it.
`peer_reviewed` is only said of a paper with a journal's type, a journal's name that is no repository or index, and its place there (a volume, an issue
or pages); never of a book, a conference paper, a dataset, a letter, a correction or a book review: an index calls most of what it holds an article.
`guideline` is only said where the title says it and the publisher is an institution or clinical.

What it does not know: who wrote a page, whether a known publisher erred, and a machine's text that does not say that it is one.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from registry.errors import Invalid
from registry.vocabulary import CLASSES

_NEVER = ("never.social", "never.no-author")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Claude and Gemini are people's names too: a surname after one means a person.
_MODEL = (
    r"(?:an? )?(?:(?:our |the )?(?:ai|a\.i\.)(?! (?:now|institute|lab|society|centre|center|research|office|council|team|department|alliance|policy)\b)(?:[- ](?:writer|tool|assistant|model|system|chatbot)s?)?|artificial intelligence|(?:generative|gen) ?-?ai|genai|chat ?gpt|(?:open)?ai's \w+|"
    r"gpt-?\d\w*|(?:google )?bard|(?:microsoft |github )?copilot|llama|deepseek|perplexity|(?:large )?language model|llms?|chat ?bot"
    r"|(?:claude|gemini)(?= (?:\d|ai\b|opus|sonnet|haiku|pro\b|ultra\b|flash\b|and\b|with\b|under\b|for\b|on\b|in\b|from\b|using\b|then\b|by\b|edited\b|reviewed\b|wrote\b)|[^\w ]|\s*$))\b"
)
_TEXT = r"(?:article|post|blog post|blog|content|text|page|answer|summary|abstract|story|essay|report|piece|transcript|document|response|guide|newsletter|overview|draft|book|chapter|column)"
_HOW = r"(?:(?:partly|partially|fully|entirely|completely|automatically|originally|mostly|largely|first|initially) )?"
_MADE = r"(?:generated|written|created|produced|authored|drafted|composed|prepared|compiled|made)"
# Only what a text says of itself: an article about machine-written texts must stay, and so must authors who had their own words corrected.
_AI_WORDS = (
    re.compile(r"\bas (?:an ai|a large) language model\b(?!\w)"),
    re.compile(r"\bi(?:'m| am) (?:just |only )?an ai (?:language model|assistant|chatbot|model)\b"),
    re.compile(
        rf"\b(?:this|the above|the following|our) {_TEXT} (?:was|is|has been|were) {_HOW}{_MADE} {_HOW}(?:by|with|using|through|via)"
        rf" (?:the )?(?:help of |assistance of |aid of |support of |assistance from |help from )?{_MODEL}"
    ),
    re.compile(
        rf"\b(?:this|the above|the following) {_TEXT} (?:was|is|has been) {_HOW}{_MADE}[^.!?]{{0,40}}? with (?:the )?(?:help|assistance|aid|support) (?:of|from) {_MODEL}"
    ),
    re.compile(rf"\bthis (?:is an? )?(?:ai|chatgpt|machine)[- ](?:generated|written|assisted|authored|created) {_TEXT}\b"),
    re.compile(
        r"(?:^|[.!?:\n|>\])]\s*)(?:an? )?(?:ai|chatgpt|machine)[- ](?:generated|written) (?:summary|content|text|article|overview|answer|abstract)\b(?=\s*(?:$|[:.|\n]))"
    ),
    re.compile(r"\b(?:summary|content|text|article|post|abstract) (?:is|was) (?:ai|chatgpt|machine)[- ](?:generated|written)\b"),
    re.compile(
        rf"(?:^|[.!?|]\s*)\W{{0,6}}(?:{_HOW}{_MADE}|written) (?:by|with|using)(?: (?:the )?(?:help|assistance) (?:of|from))? {_MODEL}"
    ),
    re.compile(
        r"(?:^|[.!?|]\s*)\W{0,6}(?:by|author|written by)[: ]\s*(?:chat ?gpt|gpt-?\d\w*|claude|gemini|copilot|openai|(?:our )?ai(?: writer| assistant)?)(?=\s*(?:$|[.,|;:()\n]|on \d|\d))"
    ),
    re.compile(
        rf"{_MODEL} (?:wrote|has written|drafted|composed|authored|generated|produced) (?:most of |much of |all of |part of |parts of )?(?:this|the above|the following) {_TEXT}\b"
    ),
    re.compile(
        rf"\b(?:i|we) (?:have )?(?:used|asked|let|had|relied on) {_MODEL}(?:'s help)? (?:to |for |in )?(?:help (?:me |us )?)?(?:to )?(?:writ|draft|generat|compos|creat|produc)\w* (?:most of |much of |parts? of )?(?:this|the above|the following|our) {_TEXT}\b"
    ),
    re.compile(
        r"(?:^|[.!?|]\s*)(?:i|we) (?:have )?used (?:generative ai|genai|chat ?gpt|ai|an ai|claude|gemini) to write\b(?! (?:code|software|scripts|e-?mails))"
    ),
    re.compile(
        rf"\b(?:this|the above) {_TEXT} (?:was|is|comes) (?:written |by |from )*(?:our|an?|the) ai (?:writer|author|journalist|tool|assistant)\b"
    ),
    re.compile(r"\b(?:by|from|written by|meet) our ai[- ](?:writer|author|journalist)\b"),
    # German
    re.compile(
        r"\b(?:dieser|diese|dieses|der vorliegende|die vorliegende) (?:artikel|text|beitrag|zusammenfassung|inhalt|seite|bericht|blogbeitrag) (?:wurde|ist|wird) (?:\w+ ){0,3}?"
        r"(?:von|mit(?: hilfe(?: von)?)?|mithilfe(?: von)?|durch|unter einsatz von|mit unterstutzung von|mit unterstützung von) (?:einer |eines |der |einem )?"
        r"(?:ki\b|kunstlicher intelligenz|künstlicher intelligenz|kunstlichen intelligenz|künstlichen intelligenz|chat ?gpt|gpt-?\d\w*|claude\b|gemini\b|copilot|sprachmodells?)"
    ),
    re.compile(
        r"\b(?:ki|chatgpt)[- ](?:generierte?r?s?|erstellte?r?s?|geschriebene?r?s?) (?:text|artikel|inhalt|beitrag|zusammenfassung)\b(?=\s*(?:$|[:.|\n]))"
    ),
    re.compile(r"\bals (?:ki-sprachmodell|ki-modell|großes sprachmodell|sprachmodell)\b[^.!?]{0,10}\b(?:kann|habe|bin|darf|verfüge)\b"),
)
_AI_AUTHOR = re.compile(
    r"\b(?:chat ?gpt|openai|gpt-?\d\w*|claude (?:\d|opus|sonnet|haiku)|gemini (?:\d|pro|ultra)|generative ai|language model|ai writer|ai assistant)\b"
)
_RETRACTED = re.compile(
    r"^\W*(?:retracted(?: article| paper)?\b\W*[:\])-]|retracted article\b|(?:retraction|withdrawn|withdrawal)(?: article| notice| note)?\s*(?::|of\b|to\b)"
    r"|retraction notice\b|withdrawn\b\W*[\])])",
    re.IGNORECASE,
)
# Guidance for parents on moving in is no guideline; a clinical or practice guidance is.
_GUIDELINE = re.compile(
    r"\b(?:guidelines?|(?:clinical|practice|evidence-based|nice|technical) guidance|guidance (?:on|for) (?:clinical|mental health at work|practice))\b",
    re.IGNORECASE,
)
# What journals print that no reviewer judged as research.
_NO_RESEARCH = re.compile(
    r"^\W*(?:book reviews?|review of the book|expressions? of concern|editorial expression of concern|corrections?|corrigend(?:um|a)|errat(?:um|a)|author correction|publisher correction"
    r"|editorial|letter to the editor|commentary|obituary|in memoriam|reply to|comment on|news)\b\s*(?:[:\])-]|to\b|of\b|on\b|$)",
    re.IGNORECASE,
)
# A repository, an index or a magazine in the place of a journal: Semantic Scholar and OpenAlex write whatever they found the paper at.
_NO_JOURNAL = re.compile(
    r"\b(?:zenodo|figshare|hal|repositor(?:y|ies|ium)|repositorio|escholarship|pubmed(?: central)?|pmc|doaj|directory of open access journals|qeios|psycextra|dataset|data archive"
    r"|researchgate|academia\.edu|semantic scholar|google scholar|crossref|dspace|eprints|digital commons|open science framework|osf|dryad|mendeley data|theses|dissertations?"
    r"|lecture notes|proceedings(?! of the (?:national|royal|nutrition|ieee))|working papers?|discussion papers?|conference|workshop|symposium|forbes|the conversation|medium|linkedin|wikipedia|authorea|techrxiv|cogprints|econstor|philpapers|repec|eric)\b"
    r"|^(?:core|books?|magazine)$",
    re.IGNORECASE,
)
# DOI prefixes of Zenodo, figshare, Dryad, Mendeley Data, Qeios, PsycEXTRA, Harvard Dataverse, Authorea.
_NO_JOURNAL_DOI = re.compile(r"10\.(?:5281/|6084/|5061/|17632/|32388/|1037/e\d|7910/|22541/)", re.IGNORECASE)
# Types as Semantic Scholar, Crossref and CSL write them, in lower case without separators.
_JOURNAL_TYPES = frozenset({"journalarticle", "articlejournal", "review", "metaanalysis", "clinicaltrial"})
_OPINION_TYPES = frozenset({"editorial", "lettersandcomments", "letter", "news", "erratum", "paratext"})
_OTHER_TYPES = frozenset(
    {"book", "booksection", "bookchapter", "monograph", "conference", "conferencepaper", "proceedingsarticle", "paperconference", "dataset", "casereport", "report", "dissertation",
     "thesis", "repository", "other", "submittedversion", "retraction", "peerreview", "supplementarymaterials"}
)  # fmt: skip
_PREPRINT_TYPES = frozenset({"preprint", "postedcontent"})
_PREPRINT_NAMES = re.compile(
    r"\b(?:arxiv|biorxiv|medrxiv|psyarxiv|socarxiv|edarxiv|ssrn|osf preprints|research square|preprints\.org)\b|^preprints?$", re.IGNORECASE
)
# DOI prefixes of arXiv, PsyArXiv, OSF, SocArXiv, EdArXiv, SSRN, Research Square, Preprints.org, openRxiv. Cold Spring Harbor gives 10.1101 to its
# journals too (10.1101/gr...), so there only bioRxiv's and medRxiv's numbers count.
_PREPRINT_DOI = re.compile(
    r"10\.(?:48550/|31234/|31219/|31235/|35542/|2139/ssrn|21203/rs|20944/|64898/|1101/(?:\d{4}\.\d{2}\.\d{2}|\d{6}))", re.IGNORECASE
)


@dataclass(frozen=True)
class Verdict:
    """What a source may do: role 'answer', 'question', or None for refused. `rule` is the rule's id and `why` a sentence part for people."""

    role: str | None
    class_: str
    review_status: str
    rule: str
    why: str


@dataclass(frozen=True)
class _Rule:
    """One row of standards.json."""

    id: str
    role: str | None
    class_: str
    review: str
    why: str
    domains: tuple[tuple[str, str], ...]  # (domain, path segment or "")

    def match(self, host: str, path: str) -> str | None:
        """The longest of its domains that fits, or None."""
        segments = path.casefold().split("/")
        return max((d for d, word in self.domains if _under(host, d) and (not word or word in segments)), key=len, default=None)

    def verdict(self, domain: str, title: str) -> Verdict:
        guideline = self.class_ in {"institutional", "clinical"} and _GUIDELINE.search(title)
        return Verdict(self.role, self.class_, "guideline" if guideline else self.review, self.id, self.why.format(domain=domain))


@cache
def _rules() -> dict[str, _Rule]:
    """Every rule that has a list, by id."""
    rows = json.loads(Path(__file__).with_name("standards.json").read_text(encoding="utf-8"))["rules"]
    return {r["id"]: _Rule(r["id"], r["role"], r["class"], r["review"], r["why"], tuple(_entry(d) for d in r["domains"])) for r in rows}


def _entry(text: str) -> tuple[str, str]:
    domain, _, word = text.partition("/")
    return domain, word


def _under(host: str, domain: str) -> bool:
    return host == domain or host.endswith("." + domain)


def _host(url: str) -> tuple[str, str]:
    """Host in lower case, as the name system writes it, and path; both empty where the text is no URL."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return "", ""
    try:
        return host.encode("idna").decode().lower(), parts.path
    except UnicodeError:
        return host.lower(), parts.path


def _domain(text: str) -> str:
    """A domain that a person wrote. Raises Invalid for anything else."""
    name = text.strip().lower().removeprefix("*.").rstrip(".")
    try:
        name = name.encode("idna").decode()
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if len(labels) < 2 or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Invalid(f"Expected a domain such as example.org; found {text[:80]!a}.", hint="Leave out https://, the path and the port.")
    return name


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return re.sub(r"\s+", " ", folded)


def says_machine_wrote_it(text: str) -> bool:
    """Whether the text says of itself that a model wrote it."""
    plain = _plain(text)
    return any(pattern.search(plain) for pattern in _AI_WORDS)


class Standards:
    """The rules together with what one person allowed (domain -> class) and denied. Raises Invalid for what is no domain or no class."""

    def __init__(self, allowed: Mapping[str, str] | None = None, denied: Sequence[str] = ()) -> None:
        self.allowed = {_domain(domain): class_ for domain, class_ in (allowed or {}).items()}
        self.denied = tuple(_domain(domain) for domain in denied)
        wrong = next((class_ for class_ in self.allowed.values() if class_ not in CLASSES), None)
        if wrong is not None:
            raise Invalid(f"A domain's class is one of {', '.join(CLASSES)}; found {wrong[:40]!a}.")

    def web(self, url: str, title: str, text: str) -> Verdict:
        """Decide a page by its address, its title and what was read of it."""
        host, path = _host(url)
        return (
            self._denied(host)
            or _machine_text((title, text), host, path)
            or _retracted(title)
            or self._allowed(host, path, title)
            or _listed(host, path, title)
            or _unknown(host)
        )

    def paper(self, csl: Mapping[str, Any], *, types: Sequence[str], text: str = "") -> Verdict:
        """Decide a paper by its CSL-JSON, by the types that its index gives it and by what was read of it."""
        refused = self._refused(csl, text)
        if refused:
            return refused
        kinds = {re.sub(r"[^a-z]", "", str(kind).casefold()) for kind in types}
        journal = _text(csl, "container-title")
        if not _people(csl) and not journal:
            return Verdict(None, "unclassified", "unknown", "never.no-author", "neither an author nor a journal is named for it")
        if _is_preprint(csl, journal, kinds):
            return Verdict("answer", "academic", "preprint", "paper.preprint", "a preprint: named authors, not peer-reviewed yet")
        if journal:
            status = "editorial" if kinds & _OPINION_TYPES else "peer_reviewed" if _reviewed(csl, journal, kinds) else "unknown"
            return Verdict("answer", "academic", status, "paper.journal", f"published in {journal[:200]}")
        return Verdict("answer", "academic", "unknown", "paper.named-author", "a scholarly work with a named author and no journal")

    def document(self, csl: Mapping[str, Any], text: str = "") -> Verdict:
        """Decide a file that a person brought, by the citation that came with it and what was read of it.

        Whoever brings it vouches for the citation, not for a review.
        """
        refused = self._refused(csl, text)
        if refused:
            return refused
        if not _text(csl, "title") or not (_people(csl) or _text(csl, "publisher")):
            why = "it names no author or organisation that answers for it; give it a citation with a title and an author or publisher"
            return Verdict(None, "unclassified", "unknown", "document.no-citation", why)
        by_url = self.web(_text(csl, "URL"), _text(csl, "title"), "")
        if by_url.role == "answer":
            return Verdict("answer", by_url.class_, by_url.review_status, "document.cited", f"brought with a citation; {by_url.why}")
        class_ = "academic" if csl.get("type") == "article-journal" and _text(csl, "container-title") else "unclassified"
        return Verdict("answer", class_, "unknown", "document.cited", "brought with a citation that names who answers for it")

    def thread(self, url: str) -> Verdict:
        """Decide a forum thread: it may shape a question and never carries advice."""
        why = "a forum thread may shape a question and never carries advice"
        return self._denied(_host(url)[0]) or Verdict("question", "community", "self_published", "forum.question-only", why)

    def blocked(self, most: int = 50) -> tuple[str, ...]:
        """At most `most` domains that a search shall leave out: the denied ones first, then hosts of posts and of models' answers.

        A host is left in where a person vouches for a name under it, because a search leaves out subdomains too.
        """
        listed = [domain for rule in ("never.social", "never.ai-generated") for domain, _ in _rules()[rule].domains]
        open_ = [domain for domain in listed if not any(_under(name, domain) for name in self.allowed)]
        return tuple(dict.fromkeys([*self.denied, *open_]))[:most]

    def _denied(self, host: str) -> Verdict | None:
        denied = next((domain for domain in self.denied if _under(host, domain)), None)
        return Verdict(None, "unclassified", "unknown", "user.denied", f"a person denied {denied}") if denied else None

    def _allowed(self, host: str, path: str, title: str) -> Verdict | None:
        """A person's word, unless it names a whole host of posts: nobody can vouch for all of those."""
        domain = max((name for name in self.allowed if _under(host, name)), key=len, default=None)
        never = max((d for rule in _NEVER if (d := _rules()[rule].match(host, path))), key=len, default=None)
        if domain is None or (never is not None and len(domain) <= len(never)):
            return None
        class_ = self.allowed[domain]
        role = "question" if class_ == "community" else "answer"
        review = {"industry": "editorial", "professional": "editorial", "community": "self_published"}.get(class_, "unknown")
        return _Rule("user.allowed", role, class_, review, "a person vouches for {domain}", ()).verdict(domain, title)

    def _refused(self, csl: Mapping[str, Any], text: str) -> Verdict | None:
        """What refuses a paper or a document by its citation and by what its text says of itself."""
        host, path = _host(_text(csl, "URL"))
        title = _text(csl, "title")
        return self._denied(host) or _machine_author(csl) or _machine_text((title, text), host, path) or _retracted(title)


def _machine_text(texts: Sequence[str], host: str, path: str) -> Verdict | None:
    rule = _rules()["never.ai-generated"]
    if rule.match(host, path):
        return rule.verdict(_shown(host), "")
    if any(says_machine_wrote_it(text) for text in texts):
        return Verdict(None, rule.class_, rule.review, rule.id, "the text says that a model wrote it; such text never carries advice")
    return None


def _machine_author(csl: Mapping[str, Any]) -> Verdict | None:
    name = next((name for name in _people(csl) if _AI_AUTHOR.search(_plain(name))), None)
    return Verdict(None, "unclassified", "unknown", "never.ai-generated", f"its author is a model ({name[:80]})") if name else None


def _retracted(title: str) -> Verdict | None:
    if not _RETRACTED.search(title):
        return None
    return Verdict(None, "unclassified", "unknown", "never.retracted", "its title says that it was retracted or withdrawn")


# Parts of a university's host under which its people and projects write what they like.
_PERSONAL_LABELS = frozenset(
    {"blog", "blogs", "sites", "site", "people", "students", "student", "personal", "users", "user", "home", "homes", "homepage", "homepages", "u", "web-users", "wp", "wordpress", "pages",
     "scholarworks", "hbsp", "members", "stud", "my"}
)  # fmt: skip
_PERSONAL_PATHS = re.compile(r"/(?:~|%7e)|^/(?:people|users?|home|homepages?|blogs?|students?|personal|staff)/[^/]+/", re.IGNORECASE)


def _personal(host: str, path: str, domain: str) -> bool:
    """Whether a university's page is one that a person keeps there. Only labels before the known domain count: it may itself be 'blogs'."""
    labels = host.removesuffix(domain).strip(".").split(".")
    return bool(_PERSONAL_PATHS.search(path)) or not _PERSONAL_LABELS.isdisjoint(labels)


def _listed(host: str, path: str, title: str) -> Verdict | None:
    """The rules with lists: the refusing ones and forums in their order, then the publisher with the longest domain."""
    rules = _rules()
    for name in (*_NEVER, "forum.question-only"):
        if rules[name].match(host, path):
            return rules[name].verdict(_shown(host), title)
    found = [(len(domain), domain, rule) for rule in rules.values() if rule.role == "answer" and (domain := rule.match(host, path))]
    if not found:
        return None
    _, domain, rule = max(found, key=lambda hit: hit[0])
    if rule.id == "institution.university" and _personal(host, path, domain):
        why = f"{_shown(host)} holds pages that people keep at a university; no publisher answers for them"
        return Verdict(None, "unclassified", "unknown", "never.personal-page", why)
    return rule.verdict(_shown(host), title)


def _unknown(host: str) -> Verdict:
    domain = _shown(host)
    why = f"nobody accountable is known for {domain}; vouch for it with --allow-domain {domain}=CLASS" if domain else "it has no address"
    return Verdict(None, "unclassified", "unknown", "web.unknown-publisher", why)


def _shown(host: str) -> str:
    return host.removeprefix("www.")


def _reviewed(csl: Mapping[str, Any], journal: str, kinds: set[str]) -> bool:
    """Whether a paper stands in a journal that has its papers reviewed, as far as its index tells."""
    typed = bool(kinds & _JOURNAL_TYPES or (kinds & {"article"} and csl.get("type") == "article-journal"))
    placed = any(_filled(csl.get(key)) for key in ("volume", "issue", "page"))
    other = (
        kinds & _OTHER_TYPES
        or _NO_JOURNAL.search(journal)
        or _NO_JOURNAL_DOI.match(_text(csl, "DOI"))
        or _NO_RESEARCH.search(_text(csl, "title"))
    )
    return typed and placed and not other


def _filled(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and bool(value.strip()))


def _is_preprint(csl: Mapping[str, Any], journal: str, kinds: set[str]) -> bool:
    """By the journal's name, the types or the DOI; by the address only where there is no DOI, because a journal's paper may be read on arXiv."""
    doi = _text(csl, "DOI")
    if _PREPRINT_NAMES.search(journal) or kinds & _PREPRINT_TYPES or _PREPRINT_DOI.match(doi):
        return True
    return not doi and not journal and _rules()["paper.preprint"].match(*_host(_text(csl, "URL"))) is not None


def _text(csl: Mapping[str, Any], key: str) -> str:
    """A field's text; '' for what is missing or no text. Crossref gives titles as lists."""
    value = csl.get(key)
    value = value[0] if isinstance(value, (list, tuple)) and value else value
    return value.strip() if isinstance(value, str) else ""


def _people(csl: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of authors and editors, without empty ones."""
    names = []
    for person in [*_list(csl.get("author")), *_list(csl.get("editor"))]:
        parts = [person.get(key) for key in ("given", "family", "literal")] if isinstance(person, Mapping) else [person]
        names.append(" ".join(part.strip() for part in parts if isinstance(part, str)).strip())
    return tuple(name for name in names if name)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()
