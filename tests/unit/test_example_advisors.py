"""Checks the example advisors in ``examples/``: their pairs, their sources and the promises made about both.

Every rule of the writing brief that a program can decide is a named test here, run once for each advisor. Rules that need a reader
(is the feeling validated before the advice, is the fact what the source says) are not claimed by this file.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = REPO_ROOT / "examples"
VERIFIED = REPO_ROOT.parent / "shared" / "data" / "verified_sources.json"

MINIMUM_PAIRS = {"elena": 50, "marcus": 30, "priya": 30}
OWN_NAMES = {"elena": ("Elena",), "marcus": ("Marcus",), "priya": ("Priya",)}
PAIR_KEYS = ["messages", "category", "origin", "generator", "sources"]
CATEGORIES = {"coaching_technique", "scenario", "voice", "multi_turn"}
GENERATOR = "Claude (Anthropic)"
READ_EXTENTS = {"full_text", "abstract", "excerpt"}  # metadata_only is no text, so nothing can rest on it
SINGLE_TURN_WORDS = range(90, 221)
MULTI_TURN_WORDS = range(60, 161)
RUN_LENGTH = 8

PROFESSION = (
    r"(?:therapist|psychologist|psychiatrist|clinician|doctor|physician|nurse|counsell?or|social worker|coach|mentor|consultant"
    r"|recruiter|hiring manager|strategist|advis[eo]r|planner|analyst|accountant|economist|professional|expert|practitioner"
    r"|researcher|human(?: being)?)"
)
PAPERS = r"(?:ph\.?d\.?|doctorate|degree|licen[cs]e|credentials?|certificat\w+|qualifications?|mba|diploma)"
# Matched without regard to case and outside double quotes: a sentence offered to the user to say is the user's, not the advisor's.
CREDENTIAL_CLAIMS: dict[str, str] = {
    "owns a degree or licence": rf"\bmy (?:\w+ )?{PAPERS}\b",
    "holds a degree or licence": rf"\bI (?:hold|earned|have|got|completed) (?:a|an|my) (?:\w+ ){{0,2}}{PAPERS}\b",
    "is trained or licensed": (
        r"\bI(?:'m| am|'ve been| have been| was) (?:\w+ly )?"
        r"(?:licen[cs]ed|certified|qualified|accredited|board[- ]certified|trained (?:as|in))\b"
    ),
    "is a professional": rf"\bI(?:'m| am| was) (?:a|an|your) (?:[\w-]+ ){{0,3}}{PROFESSION}\b",
    "speaks as a professional": rf"\bas (?:a|an|your) (?:[\w-]+ ){{0,3}}{PROFESSION}\s*,?\s+I\b",
    "has patients or clients": r"\bmy (?:own )?(?:\w+ )?(?:clients?|patients?|coachees?|mentees?|customers?)\b",
    "has a practice": r"\b(?:in|at|from|through) my (?:own )?(?:\w+ )?(?:practice|clinic|office|work with|consulting|coaching|sessions?)\b",
    "claims experience": r"\b(?:in|from|over) my (?:own )?(?:\w+ )?(?:experience|career|years|time (?:as|in)|lifetime|past)\b",
    "claims years": (
        r"\bI(?:'ve| have) (?:\w+ )?(?:been|done|spent|worked|seen|practi[cs]ed|advised|taught|led|run)\b[^.?!]{0,60}\b(?:years|decades?)\b"
        r"|\bmy (?:\w+ ){0,2}(?:years|decades?) (?:of|in|as)\b"
    ),
    "titles itself": r"\b(?:Dr|Prof)\.? \w+ (?:here|speaking)\b",
}
LIVED_EXPERIENCE_CLAIMS: dict[str, str] = {
    "has been there": (
        r"\bI(?:'ve| have) (?:\w+ )?been (?:there|through (?:this|that|it)|where you|in your (?:shoes|place|position|seat))\b"
        r"|\bbeen there myself\b"
    ),
    "has lived it": r"\bI (?:(?:went|lived) through|burned out|burnt out|struggled with|suffered)\b",
    "was once": r"\bwhen I (?:was|worked|had|burned|burnt|quit|left|lost|started|got|first|changed|switched|became|went)\b",
    "used to": r"\bI used to\b",
    "remembers": r"\bI (?:still )?remember (?:when|my|being|feeling|the (?:day|time|first))\b",
    "has met many such people": (
        r"\bI(?:'ve| have) (?:\w+ )?(?:seen (?:this|it|so many|many|countless|hundreds|people)|worked with|coached|counsell?ed|treated"
        r"|mentored|hired|managed|advised|guided|helped (?:\w+ ){0,2}(?:people|clients|others|many|hundreds|dozens))\b"
    ),
    "works with people": (
        r"\b(?:people|those|folks|professionals|families|couples) (?:whom |that )?I "
        r"(?:(?:work|worked|speak|spoke) with|coach|coached|see|saw|advise|advised)\b"
    ),
    "knows the feeling": (
        r"\bI know (?:exactly |just |first-?hand )?(?:how|what) "
        r"(?:you feel|you're feeling|(?:that|this|it) feels|(?:that|this|it)(?:'s| is) like)\b"
    ),
    "has a life": (
        r"\bmy (?:own )?(?:husband|wife|partner|kids?|children|son|daughter|mother|father|mom|mum|dad|childhood|burnout|savings|mortgage"
        r"|boss|manager)\b"
    ),
}
LINK = re.compile(r"https?://|www\.|\b[\w.+-]+@[\w-]+\.\w+|\b[\w-]+\.(?:com|org|net|gov|edu|io|int)\b", re.IGNORECASE)
CITATION = re.compile(r"\bet al\b|\bdoi\b|\(\d{4}\)|\[\d+\]", re.IGNORECASE)
LIST_OR_HEADING = re.compile(r"^\s*(?:[-*+•·\u2013\u2014]\s+|\(?\d{1,2}[.)]\s+|\(?[a-zA-Z][.)]\s+|#{1,6}\s*\S|>\s)", re.MULTILINE)
INLINE_MARKDOWN = re.compile(r"\*\*|__|`|^\s*(?:---|\*\*\*)\s*$|\[[^\]]+\]\([^)]*\)|<\w+>", re.MULTILINE)
TECHNIQUE = re.compile(
    r"\?|\b(?:imagine|picture|think of|think about it as|it's like|is like|as if|like (?:a|an|the|leaving|asking|trying)|reframe"
    r"|another way to|a different (?:question|reading|way)|what if|suppose|instead of|rather than)\b",
    re.IGNORECASE,
)
FIRST_PERSON = re.compile(r"\b(?:I|I'm|I'd|I'll|I've|me|my|mine)\b")
DOUBLE_QUOTED = re.compile(r'"[^"\n]*"|“[^”\n]*”')

advisors = pytest.mark.parametrize("advisor", sorted(MINIMUM_PAIRS))


# -------------------------------------------------------------------------------------------------------------------------- reading


@cache
def load_pairs(advisor: str) -> list[tuple[int, dict[str, Any]]]:
    """The pairs of one advisor, each with its line number in pairs.jsonl."""
    path = EXAMPLES / advisor / "pairs.jsonl"
    assert path.is_file(), f"{path.relative_to(REPO_ROOT)} is missing"
    pairs: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        assert line.strip(), f"{advisor} line {number}: empty line"
        try:
            pair = json.loads(line)
        except json.JSONDecodeError as error:
            raise AssertionError(f"{advisor} line {number}: not JSON: {error}") from error
        assert isinstance(pair, dict), f"{advisor} line {number}: not an object"
        pairs.append((number, pair))
    return pairs


@cache
def load_sources(advisor: str) -> list[dict[str, Any]]:
    """The CSL-JSON entries of one advisor."""
    path = EXAMPLES / advisor / "sources.json"
    assert path.is_file(), f"{path.relative_to(REPO_ROOT)} is missing"
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(entries, list), f"{advisor}: sources.json is not an array"
    assert entries, f"{advisor}: sources.json is empty"
    return entries


def assistant_turns(advisor: str) -> Iterator[tuple[int, int, str]]:
    """Line, turn index and text of every assistant turn."""
    for number, pair in load_pairs(advisor):
        for index, message in enumerate(pair["messages"]):
            if message["role"] == "assistant":
                yield number, index, message["content"]


def source_urls(pair: dict[str, Any]) -> list[str]:
    return [source["url"] for source in pair["sources"]]


def plain(text: str) -> str:
    """Straight apostrophes, so that one pattern fits both kinds."""
    return text.replace("\u2019", "'").replace("\u2018", "'")


def without_quotes(text: str) -> str:
    return DOUBLE_QUOTED.sub(" ", plain(text))


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain(text).lower())


def report(problems: list[str]) -> None:
    assert not problems, f"{len(problems)} problem(s):\n" + "\n".join(problems)


def families(advisor: str) -> list[tuple[set[str], int]]:
    """Sources joined by union-find wherever one pair names both, each family with its number of pairs, largest first."""
    parent: dict[str, str] = {}

    def find(url: str) -> str:
        parent.setdefault(url, url)
        while parent[url] != url:
            parent[url] = parent[parent[url]]
            url = parent[url]
        return url

    for _, pair in load_pairs(advisor):
        urls = source_urls(pair)
        for url in urls:
            parent[find(url)] = find(urls[0])
    members: dict[str, set[str]] = defaultdict(set)
    for url in list(parent):
        members[find(url)].add(url)
    sizes = Counter(find(source_urls(pair)[0]) for _, pair in load_pairs(advisor))
    return sorted(((members[root], sizes[root]) for root in members), key=lambda family: -family[1])


# ---------------------------------------------------------------------------------------------------------------- shape of the pairs


@advisors
def test_enough_pairs(advisor: str) -> None:
    count = len(load_pairs(advisor))
    assert count >= MINIMUM_PAIRS[advisor], f"{advisor} has {count} pairs, needs {MINIMUM_PAIRS[advisor]}"


@advisors
def test_keys_origin_and_generator(advisor: str) -> None:
    problems = []
    for number, pair in load_pairs(advisor):
        if list(pair) != PAIR_KEYS:
            problems.append(f"line {number}: keys {list(pair)}, expected {PAIR_KEYS} in this order")
        if pair.get("origin") != "synthesised":
            problems.append(f"line {number}: origin is {pair.get('origin')!r}; a model wrote these pairs, so it must be 'synthesised'")
        if pair.get("generator") != GENERATOR:
            problems.append(f"line {number}: generator is {pair.get('generator')!r}, expected {GENERATOR!r}")
        if pair.get("category") not in CATEGORIES:
            problems.append(f"line {number}: unknown category {pair.get('category')!r}")
    report(problems)


@advisors
def test_characters_are_not_escaped(advisor: str) -> None:
    raw = (EXAMPLES / advisor / "pairs.jsonl").read_text(encoding="utf-8")
    found = re.findall(r"\\u[0-9a-fA-F]{4}", raw)
    assert not found, f"{advisor}: written with ensure_ascii, for example {found[:3]}"


@advisors
def test_roles_alternate_from_user_to_assistant(advisor: str) -> None:
    problems = []
    for number, pair in load_pairs(advisor):
        roles = [message.get("role") for message in pair["messages"]]
        expected = ["user" if index % 2 == 0 else "assistant" for index in range(len(roles))]
        if roles != expected or len(roles) < 2 or len(roles) % 2:
            problems.append(f"line {number}: roles {roles} do not alternate from user to assistant")
        for index, message in enumerate(pair["messages"]):
            if sorted(message) != ["content", "role"]:
                problems.append(f"line {number} turn {index}: keys {sorted(message)}, expected role and content")
            if not str(message.get("content", "")).strip():
                problems.append(f"line {number} turn {index}: empty content")
    report(problems)


@advisors
def test_multi_turn_is_present_and_means_more_than_one_exchange(advisor: str) -> None:
    problems = []
    multi = 0
    for number, pair in load_pairs(advisor):
        exchanges = len(pair["messages"]) // 2
        if pair["category"] == "multi_turn":
            multi += 1
            if exchanges not in (2, 3):
                problems.append(f"line {number}: multi_turn with {exchanges} exchange(s), expected 2 or 3")
        elif exchanges != 1:
            problems.append(f"line {number}: {pair['category']} with {exchanges} exchanges, expected 1")
    if not multi:
        problems.append("no multi_turn pair at all")
    report(problems)


@advisors
def test_every_category_is_represented(advisor: str) -> None:
    counts = Counter(pair["category"] for _, pair in load_pairs(advisor))
    total = sum(counts.values())
    thin = [f"{category}: {counts[category]} of {total}" for category in sorted(CATEGORIES) if counts[category] < 0.1 * total]
    assert not thin, f"{advisor}: under a tenth of the pairs: {thin}"


@advisors
def test_no_duplicate_user_turns(advisor: str) -> None:
    seen: dict[str, int] = {}
    problems = []
    for number, pair in load_pairs(advisor):
        for message in pair["messages"]:
            if message["role"] != "user":
                continue
            key = " ".join(words(message["content"]))
            if key in seen:
                problems.append(f"line {number}: asks the same as line {seen[key]}: {message['content'][:80]!r}")
            seen.setdefault(key, number)
    report(problems)


# -------------------------------------------------------------------------------------------------------- what the advisor may not say


@advisors
def test_never_says_its_own_name(advisor: str) -> None:
    pattern = re.compile(rf"\b(?:{'|'.join(OWN_NAMES[advisor])})\b", re.IGNORECASE)
    report(
        [
            f"line {number} turn {turn}: says {hit.group(0)!r}"
            for number, turn, text in assistant_turns(advisor)
            if (hit := pattern.search(text))
        ]
    )


@advisors
@pytest.mark.parametrize("claim", sorted(CREDENTIAL_CLAIMS))
def test_never_claims_a_credential(advisor: str, claim: str) -> None:
    pattern = re.compile(CREDENTIAL_CLAIMS[claim], re.IGNORECASE)
    report(
        [
            f"line {number} turn {turn}: {claim}: {hit.group(0)!r}"
            for number, turn, text in assistant_turns(advisor)
            if (hit := pattern.search(without_quotes(text)))
        ]
    )


@advisors
@pytest.mark.parametrize("claim", sorted(LIVED_EXPERIENCE_CLAIMS))
def test_never_claims_lived_experience(advisor: str, claim: str) -> None:
    pattern = re.compile(LIVED_EXPERIENCE_CLAIMS[claim], re.IGNORECASE)
    report(
        [
            f"line {number} turn {turn}: {claim}: {hit.group(0)!r}"
            for number, turn, text in assistant_turns(advisor)
            if (hit := pattern.search(without_quotes(text)))
        ]
    )


@pytest.mark.parametrize(
    ("sentence", "claims"),
    [
        ("I've been there too.", LIVED_EXPERIENCE_CLAIMS),
        ("When I was burned out, rest did nothing.", LIVED_EXPERIENCE_CLAIMS),
        ("I've seen so many people do this.", LIVED_EXPERIENCE_CLAIMS),
        ("Most of my clients say the same.", CREDENTIAL_CLAIMS),
        ("In my practice this is common.", CREDENTIAL_CLAIMS),
        ("As a therapist, I would say no.", CREDENTIAL_CLAIMS),
        ("As a licensed financial planner, I would wait.", CREDENTIAL_CLAIMS),
        ("I have done this for fifteen years.", CREDENTIAL_CLAIMS),
        ("I'm a certified career coach.", CREDENTIAL_CLAIMS),
        ("My PhD taught me that.", CREDENTIAL_CLAIMS),
    ],
)
def test_the_claim_patterns_catch_what_they_are_for(sentence: str, claims: dict[str, str]) -> None:
    caught = [name for name, pattern in claims.items() if re.search(pattern, without_quotes(sentence), re.IGNORECASE)]
    assert caught, f"not caught: {sentence!r}"


@pytest.mark.parametrize(
    "sentence",
    [
        "I hear you, and I'd start with the smallest thing.",
        'You could say: "In my experience the Friday deadline slips, and my manager knows it."',
        "I can't sort that out from here; a doctor can.",
        "You have been there for nine years.",
        "As a teacher you carry both.",
    ],
)
def test_the_claim_patterns_leave_honest_sentences_alone(sentence: str) -> None:
    claims = CREDENTIAL_CLAIMS | LIVED_EXPERIENCE_CLAIMS
    caught = [name for name, pattern in claims.items() if re.search(pattern, without_quotes(sentence), re.IGNORECASE)]
    assert not caught, f"caught as {caught}: {sentence!r}"


@advisors
def test_no_links_emails_or_citations(advisor: str) -> None:
    problems = []
    for number, turn, text in assistant_turns(advisor):
        for name, pattern in (("link or email", LINK), ("citation", CITATION)):
            if hit := pattern.search(text):
                problems.append(f"line {number} turn {turn}: {name} {hit.group(0)!r}")
    report(problems)


@advisors
def test_no_lists_headings_or_markdown(advisor: str) -> None:
    problems = []
    for number, turn, text in assistant_turns(advisor):
        if hit := LIST_OR_HEADING.search(text) or INLINE_MARKDOWN.search(text):
            problems.append(f"line {number} turn {turn}: {text[hit.start() : hit.start() + 40]!r}")
    report(problems)


# -------------------------------------------------------------------------------------------------------- what the advisor has to do


@advisors
def test_two_to_four_paragraphs(advisor: str) -> None:
    problems = []
    for number, turn, text in assistant_turns(advisor):
        paragraphs = text.split("\n\n")
        if not 2 <= len(paragraphs) <= 4:
            problems.append(f"line {number} turn {turn}: {len(paragraphs)} paragraph(s)")
        if any(not paragraph.strip() or "\n" in paragraph or paragraph != paragraph.strip() for paragraph in paragraphs):
            problems.append(f"line {number} turn {turn}: paragraphs are not separated by exactly one blank line")
    report(problems)


@advisors
def test_length_of_assistant_turns(advisor: str) -> None:
    problems = []
    for number, pair in load_pairs(advisor):
        allowed = MULTI_TURN_WORDS if pair["category"] == "multi_turn" else SINGLE_TURN_WORDS
        for turn, message in enumerate(pair["messages"]):
            count = len(message["content"].split())
            if message["role"] == "assistant" and count not in allowed:
                problems.append(f"line {number} turn {turn}: {count} words, allowed {allowed.start} to {allowed.stop - 1}")
    report(problems)


@advisors
def test_every_assistant_turn_uses_a_coaching_technique(advisor: str) -> None:
    report(
        [
            f"line {number} turn {turn}: no question, analogy or reframe: {text[:80]!r}"
            for number, turn, text in assistant_turns(advisor)
            if not TECHNIQUE.search(plain(text))
        ]
    )


@advisors
def test_speaks_in_the_first_person(advisor: str) -> None:
    problems = []
    for number, pair in load_pairs(advisor):
        said = " ".join(message["content"] for message in pair["messages"] if message["role"] == "assistant")
        if not FIRST_PERSON.search(without_quotes(said)):
            problems.append(f"line {number}: no I, me or my outside quotes: {said[:80]!r}")
    report(problems)


@advisors
def test_no_long_run_of_words_is_shared_by_two_pairs(advisor: str) -> None:
    """A template shows as the same run of words in two answers. Runs with fewer than three longer words are trivial."""
    first_seen: dict[tuple[str, ...], int] = {}
    problems = []
    for number, _, text in assistant_turns(advisor):
        tokens = words(text)
        for start in range(len(tokens) - RUN_LENGTH + 1):
            run = tuple(tokens[start : start + RUN_LENGTH])
            if len({word for word in run if len(word) > 3}) < 3:
                continue
            if first_seen.setdefault(run, number) != number:
                problems.append(f"line {number} shares with line {first_seen[run]}: {' '.join(run)!r}")
    report(problems)


# --------------------------------------------------------------------------------------------------------------------------- sources


@advisors
def test_every_pair_names_a_listed_source(advisor: str) -> None:
    listed = {entry["URL"] for entry in load_sources(advisor)}
    problems = []
    for number, pair in load_pairs(advisor):
        if not pair["sources"]:
            problems.append(f"line {number}: rests on no source")
        for source in pair["sources"]:
            if sorted(source) != ["role", "url"] or source["role"] != "answer":
                problems.append(f"line {number}: source {source} is not a url with role 'answer'")
            elif source["url"] not in listed:
                problems.append(f"line {number}: {source['url']} is not in sources.json")
        if len(set(source_urls(pair))) != len(source_urls(pair)):
            problems.append(f"line {number}: names one source twice")
    report(problems)


@advisors
def test_every_listed_source_is_used(advisor: str) -> None:
    used = {url for _, pair in load_pairs(advisor) for url in source_urls(pair)}
    unused = [entry["URL"] for entry in load_sources(advisor) if entry["URL"] not in used]
    assert not unused, f"{advisor}: no pair rests on {unused}"


@advisors
def test_sources_are_csl_entries_with_the_product_fields(advisor: str) -> None:
    problems = []
    entries = load_sources(advisor)
    for key in ("id", "URL"):
        values = Counter(entry.get(key) for entry in entries)
        problems += [f"{key} {value!r} occurs {count} times" for value, count in values.items() if value is None or count > 1]
    for entry in entries:
        name = entry.get("id")
        if not entry.get("type") or not entry.get("title"):
            problems.append(f"{name}: type or title is missing")
        custom = entry.get("custom", {})
        if not custom.get("class") or not custom.get("review_status"):
            problems.append(f"{name}: custom.class or custom.review_status is missing")
        documents = custom.get("documents") or []
        if not documents:
            problems.append(f"{name}: no document, so nothing says what was read")
        for document in documents:
            if set(document) != {"extent", "retrieved_at", "sha256"}:
                problems.append(f"{name}: document keys {sorted(document)}")
            if document.get("extent") not in READ_EXTENTS:
                problems.append(f"{name}: extent {document.get('extent')!r}, expected one of {sorted(READ_EXTENTS)}")
    report(problems)


@advisors
def test_sources_fall_into_disjoint_families(advisor: str) -> None:
    """The held-out split keeps a family on one side, so there must be several, and one of a size that can be held out."""
    found = families(advisor)
    total = len(load_pairs(advisor))
    shares = [f"{count} pairs ({count / total:.0%}): {sorted(urls)}" for urls, count in found]
    assert len(found) >= 4, f"{advisor}: {len(found)} disjoint families, needs 4: {shares}"
    assert any(0.05 <= count / total <= 0.20 for _, count in found), f"{advisor}: no family has 5 to 20 percent of the pairs: {shares}"


@advisors
def test_citations_equal_the_verified_list(advisor: str) -> None:
    if not VERIFIED.is_file():
        pytest.skip(f"the verified list is kept outside the repository and is not here: {VERIFIED}")
    verified = {entry["url"]: entry for entry in json.loads(VERIFIED.read_text(encoding="utf-8")) if entry.get("advisor") == advisor}
    problems = []
    for entry in load_sources(advisor):
        truth = verified.get(entry["URL"])
        if truth is None:
            problems.append(f"{entry['id']}: {entry['URL']} is not a verified source of {advisor}")
            continue
        issued = entry.get("issued", {}).get("date-parts", [[None]])[0]
        year = truth.get("year") or (int(truth["date"][:4]) if truth.get("date") else None)
        ours_and_theirs = {
            "title": (entry["title"], truth["title"]),
            "DOI": (entry.get("DOI"), truth.get("doi")),
            "class": (entry["custom"]["class"], truth["class"]),
            "review_status": (entry["custom"]["review_status"], truth["review_status"]),
            "year": (issued[0], year),
        }
        for key, (ours, theirs) in ours_and_theirs.items():
            if ours != theirs:
                problems.append(f"{entry['id']}: {key} is {ours!r}, verified {theirs!r}")
    report(problems)


# ---------------------------------------------------------------------------------------------------------------------------- prompt


@advisors
def test_prompt_names_the_advisor_as_an_ai(advisor: str) -> None:
    path = EXAMPLES / advisor / "prompt.md"
    assert path.is_file(), f"{path.relative_to(REPO_ROOT)} is missing"
    text = path.read_text(encoding="utf-8")
    count = len(text.split())
    assert 150 <= count <= 250, f"{advisor}: the prompt has {count} words, wanted 150 to 250"
    assert OWN_NAMES[advisor][0] in text, f"{advisor}: the prompt does not name the advisor"
    assert re.search(r"\bAI\b", text), f"{advisor}: the prompt does not say that the advisor is an AI"
    claim = re.search(r"\b\d+ years\b|(?i:\bph\.?d\b)|\bDr\. ", text)
    assert not claim, f"{advisor}: the prompt gives the persona a credential: {claim.group(0)!r}" if claim else ""
