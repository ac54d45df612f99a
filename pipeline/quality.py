"""The checklist for a training pair as named checks, each with its evidence. Pure, deterministic, English only, under a millisecond for a pair.

Rules: a check looks at what the assistant says, and quotes the words it objects to; what stands in double quotes is a sentence offered to the user to say,
so claims in it are the user's; 'reject' keeps a pair out of the set, 'note' only lowers its score and is shown to people. The order of CHECKS is the order
of the problems.

These are word lists and patterns, not understanding. They miss what is said in other words, cannot tell an honest feeling from a hollow phrase, and know
nothing about whether an answer is true. Each check's docstring says what it misses; a judge model may look at the rest. Links, role tags, addresses and
instructions aimed at a model are safety.py's business.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

from pipeline.values import AdvisorDomain, Cell, Finding, Pair

if TYPE_CHECKING:
    import numpy as np

CHECKS: dict[str, str] = {
    "turns": "User and assistant take turns, the user begins, the assistant has the last word, and there are as many turns as were planned.",
    "language": "The answer is written in Latin letters.",
    "first_person": "The advisor speaks in the first person.",
    "own_name": "The advisor never says its own name.",
    "third_person": "The advisor is not spoken about as somebody else.",
    "technique": "There is at least one coaching technique: a question asked back, an analogy or a reframe.",
    "validation_first": "A feeling or an effort is acknowledged before the first piece of advice.",
    "conversational": "The answer is talk: no lists, headings, bold type or tables.",
    "paragraphs": "An answer has two to four paragraphs; a later answer of a conversation may have one.",
    "length": "An answer to a single question has 60 to 450 words, an answer within a conversation 20 to 350.",
    "persona_style": "The answer uses one of the advisor's own phrases somewhere.",
    "credentials": "No degree, licence, profession, patients, sessions or years of practice are claimed.",
    "lived_experience": "No life of its own is claimed: no past, family, burnout or people it has known or who write to it.",
    "invented_number": "A percentage, a year, a decimal or a count of people stands in a named finding, the user's turns or the advisor's prompt.",
    "named_study": "An institution, a person or a year that a study is credited to stands in a named finding, the user's turns or the advisor's prompt.",
    "brand": "No product, app or account is advertised that neither the user nor the advisor's prompt brought up.",
    "generic": "The advice belongs to this person and not to everybody: few stock phrases, and details of the question come back.",
    "crisis": "A user who speaks of suicide or self-harm is pointed to a crisis line, an emergency number or a doctor in the very next answer.",
    "medical": "No diagnosis is made, no dose is given, and nobody is told to take or stop a medicine; a medicine that is only named is noted.",
    "promise": "No result is promised.",
    "insult": "The user is not insulted.",
    "repetition": "Nothing is said twice, and the user's message is not copied.",
}
SINGLE_WORDS = range(60, 451)  # the example advisors answer in 90 to 220 words; twice that still reads as talk
TURN_WORDS = range(20, 351)
PARAGRAPHS = range(2, 5)  # the original design's checklist
FOREIGN_SHARE = 0.05  # of all letters: a name in its own script passes, a sentence does not
SENTENCE_REPEATED = 6  # words of a sentence that may not come twice
RUN_COPIED = 12  # words in a row that may not come twice, nor be copied from the user
EVIDENCE = 120  # characters quoted
STOCK_NOTE, STOCK_REJECT = 2, 4  # different stock phrases in one pair
SHARED_FEW = 2  # words of the user that come back: so few mean that the answer would fit anybody


@dataclass(frozen=True)
class Problem:
    """One objection: the id in CHECKS, the offending words (or the measure), and whether it keeps the pair out."""

    check: str
    evidence: str
    severity: Literal["reject", "note"] = "reject"


@dataclass(frozen=True)
class Verdict:
    """All objections to one pair. `score` (0 to 1) only orders pairs: of two near duplicates the higher one is kept."""

    problems: tuple[Problem, ...]
    score: float

    @property
    def accepted(self) -> bool:
        """Whether nothing keeps the pair out."""
        return all(problem.severity == "note" for problem in self.problems)


@dataclass(frozen=True)
class _Seen:
    """A pair as the checks look at it; every view is made once."""

    pair: Pair
    domain: AdvisorDomain
    persona_text: str
    cell: Cell | None
    findings: tuple[Finding, ...] = ()

    @cached_property
    def raw(self) -> tuple[str, ...]:
        """The answers as written."""
        return tuple(content for role, content in self.pair.messages if role == "assistant")

    @cached_property
    def asked(self) -> str:
        """Everything the user says."""
        return _plain("\n".join(content for role, content in self.pair.messages if role == "user"))

    @cached_property
    def material(self) -> str:
        """What may be repeated as a fact: the named findings, the user's turns and the advisor's own prompt."""
        return "\n".join((self.asked, _plain(self.persona_text), *map(_finding_text, self.findings)))

    @cached_property
    def material_words(self) -> frozenset[str]:
        """The words of `material` in lower case, without a possessive's ending."""
        return frozenset(word.removesuffix("'s") for word in re.findall(r"[\w'&-]+", self.material.lower())) | frozenset(
            _WORD.findall(self.material.lower())
        )

    @cached_property
    def told(self) -> str:
        """What the user and the prompt brought up, in lower case: here a finding is no excuse."""
        return "\n".join((self.asked, _plain(self.persona_text), self.domain.name)).lower()

    @cached_property
    def known(self) -> frozenset[float]:
        """Every number in `material`, with the percentages that follow from its fractions and from the user's own amounts."""
        return _numbers(self.material) | _shares(self.asked, self.material)

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The answers with plain apostrophes and quotes."""
        return tuple(_plain(text) for text in self.raw)

    @cached_property
    def own(self) -> tuple[str, ...]:
        """The answers without what they put into the user's mouth."""
        return tuple(_QUOTED.sub(" ", text) for text in self.answers)

    @cached_property
    def low(self) -> tuple[str, ...]:
        """`own` in lower case: patterns without IGNORECASE are several times faster."""
        return tuple(text.lower() for text in self.own)

    @cached_property
    def everything(self) -> str:
        """All answers, `low`, joined."""
        return "\n".join(self.low)

    @cached_property
    def sentences(self) -> tuple[tuple[str, ...], ...]:
        """The words of each sentence of `low`, quotes left out."""
        return tuple(tuple(_WORD.findall(hit)) for hit in _SENTENCE.findall(self.everything))

    @cached_property
    def words(self) -> list[str]:
        """All words of `low` in order."""
        return [word for sentence in self.sentences for word in sentence]

    @cached_property
    def asked_words(self) -> list[str]:
        """All words of the user, in lower case."""
        return _WORD.findall(self.asked.lower())

    @cached_property
    def shared(self) -> frozenset[str]:
        """Telling words of the user that come back in an answer."""
        return _content(self.asked_words) & _content(self.words)

    @cached_property
    def techniques(self) -> tuple[str, ...]:
        """Which techniques show."""
        return found_techniques(self.everything)

    @property
    def conversation(self) -> bool:
        """Whether the user speaks more than once."""
        return self.cell.turns > 1 if self.cell else self.pair.category == "multi_turn" or len(self.raw) > 1


def _list(text: str) -> list[str]:
    """Words between blanks, or phrases between bars: a list that stays readable."""
    return text.split("|" if "|" in text else None)


_QUOTED = re.compile(r'"[^"\n]*"')
_MARKS = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00a0": " "})
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def _plain(text: str) -> str:
    return text.translate(_MARKS)


def _quote(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= EVIDENCE else flat[: EVIDENCE - 1] + "…"


def check(
    pair: Pair, *, domain: AdvisorDomain, persona_text: str = "", cell: Cell | None = None, findings: Sequence[Finding] = ()
) -> Verdict:
    """Every objection to a pair, in the order of CHECKS, and its score. Never raises for what a pair says.

    `persona_text` is the advisor's system prompt (its phrases count as style too), `cell` what was planned, `findings` are those that the pair names:
    figures and studies must stand in them.
    """
    seen = _Seen(pair, domain, persona_text, cell, tuple(findings))
    problems = tuple(problem for look in _LOOKS for problem in look(seen))
    return Verdict(problems, _score(seen, problems))


def _score(seen: _Seen, problems: tuple[Problem, ...]) -> float:
    """1 less 0.3 for each objection that rejects and 0.05 for each note, in 80 parts of a hundred; ten more for techniques, ten for details of the user's.

    A missing phrase of the advisor's costs nothing: the writer is told to use one in a third of the answers only.
    """
    counted = [problem for problem in problems if problem.check != "persona_style"]
    severe = sum(problem.severity == "reject" for problem in counted)
    clean = max(0.0, 1 - 0.3 * severe - 0.05 * (len(counted) - severe))
    return round(0.8 * clean + 0.1 * len(seen.techniques) / 3 + 0.1 * min(len(seen.shared), 6) / 6, 4)


# ------------------------------------------------------------------------------------------------------------------------- form


def turns(seen: _Seen) -> Iterator[Problem]:
    """Roles, order, empty turns and the number of turns. Without a cell, only multi_turn may and must have more than one exchange."""
    roles = [role for role, _ in seen.pair.messages]
    if not roles or roles != ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))] or len(roles) % 2:
        yield Problem("turns", f"roles: {', '.join(roles[:8]) or 'none'}")
        return
    if any(not content.strip() for _, content in seen.pair.messages):
        yield Problem("turns", "an empty turn")
    exchanges = len(roles) // 2
    if seen.cell and exchanges != seen.cell.turns:
        yield Problem("turns", f"{exchanges} of {seen.cell.turns} planned turns of the user")
    if not seen.cell and (exchanges > 1) != (seen.pair.category == "multi_turn"):
        yield Problem("turns", f"{exchanges} turns of the user in the category {seen.pair.category[:40]}")


def language(seen: _Seen) -> Iterator[Problem]:
    """Letters outside the Latin script. Misses another language in Latin letters."""
    for text in seen.raw:
        if text.isascii():
            continue
        letters = [char for char in text if char.isalpha()]
        foreign = [char for char in letters if not ("\u0000" <= char <= "\u024f" or "\u1e00" <= char <= "\u1eff")]
        if foreign:
            severe = len(foreign) > FOREIGN_SHARE * len(letters)
            yield Problem(
                "language", f"{len(foreign)} of {len(letters)} letters: {_quote(''.join(foreign[:20]))}", "reject" if severe else "note"
            )


_DASHES = "-*+\u2022\u00b7\u25aa\u2023\u25e6\u2013\u2014"  # the last two are the dashes that a word processor makes of a hyphen
_ITEM = re.compile(
    rf"[ \t]*(?:[{_DASHES}][ \t]+\S|#{{1,6}}[ \t]*\w|\|.*\||```|>[ \t]|(?:step|tip)[ \t]+\d+[ \t]*[:.)]|\(?(?:1|a)[.)][ \t]+\S)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"[ \t]*\(?\d{1,2}[.)][ \t]+\S")
_HEADING = re.compile(
    r"[ \t]*(?:[^\s.!?:]+[ \t]+){0,4}[^\s.!?:]+:[ \t]*"
)  # up to five words alone on a line: longer ones lead into a sentence
_INLINE = re.compile(r"(?:^|[\s(:])1[.)][ \t]+[^\n]{1,200}?[\s(]2[.)][ \t]+\S")
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|(?<!\w)__[^_\n]+__(?!\w)")


def conversational(seen: _Seen) -> Iterator[Problem]:
    """Bullets, numbering (also within a line), headings, bold, tables, code, label lines. Misses lists in prose ("first ..., second ...").

    A short line that ends in a colon is a heading, unless a quoted sentence follows: "Say it like this:" leads into it.
    """
    for text in seen.raw:
        lines = text.splitlines()
        numbered = [line for line in lines if _NUMBERED.match(line)]
        items = (
            [line for line in lines if _ITEM.match(line)] or _headings(text, lines) or (numbered if len(numbered) > 1 else [])
        )  # "60. That was it." alone is a sentence
        inline = _BOLD.search(text) or (_INLINE.search(text) if "2." in text or "2)" in text else None)
        if items or inline:
            yield Problem("conversational", _quote(items[0] if items else inline.group() if inline else ""))


def _headings(text: str, lines: list[str]) -> list[str]:
    if ":" not in text:
        return []
    filled = [line for line in lines if line.strip()]
    following = [*filled[1:], ""]
    return [
        line
        for line, after in zip(filled, following, strict=True)
        if _HEADING.fullmatch(line) and not _plain(after).lstrip().startswith('"')
    ]


def paragraphs(seen: _Seen) -> Iterator[Problem]:
    """Paragraphs are separated by line breaks, one or more. From the second answer of a conversation on, one is enough."""
    for index, text in enumerate(seen.raw):
        count = sum(1 for line in text.splitlines() if line.strip())
        if count not in PARAGRAPHS and not (count == 1 and index):
            yield Problem("paragraphs", f"{count} paragraph{'s' * (count != 1)} in answer {index + 1}")


def length(seen: _Seen) -> Iterator[Problem]:
    """Words between white space. A single answer of 60 words is two short paragraphs; one of 450 overwhelms."""
    allowed = TURN_WORDS if seen.conversation else SINGLE_WORDS
    for index, text in enumerate(seen.raw):
        count = len(text.split())
        if count not in allowed:
            yield Problem("length", f"{count} words in answer {index + 1}, expected {allowed.start} to {allowed.stop - 1}")


# ------------------------------------------------------------------------------------------------------------------------- voice


_I = re.compile(r"\b(?:i|i'm|i'd|i'll|i've|me|my|mine|myself|let's|let us)\b")


def first_person(seen: _Seen) -> Iterator[Problem]:
    """I, me, my or "let's" outside quotes, at least once in the pair; an answer of a conversation without any is noted."""
    silent = [index for index, text in enumerate(seen.low) if not _I.search(text)]
    if seen.low and len(silent) == len(seen.low):
        yield Problem("first_person", _quote(seen.answers[0]))
    else:
        yield from (Problem("first_person", _quote(seen.answers[index]), "note") for index in silent)


_TITLES = frozenset(_list("dr dr. doctor prof prof. professor mr mr. mrs mrs. ms ms. miss coach sir madam the"))
# Names that are also words: alone they only count where they are plainly used as a name.
_WORDS_TOO = frozenset(
    _list(
        "will may mark hope grace joy faith rose art frank bill rich sunny june april august dawn faye guy iris jack josh lily max "
        "nick pat patience pearl ray rob ruby rusty sage sky skip sue summer victor wade ward young brown white green black king "
        "bishop cook baker best long strong wise little love money career coach advisor adviser guide mentor assistant ai bot "
        "burnout finance wellness life work health stress recovery helper friend expert counsellor counselor"
    )
)


@cache
def _name(name: str) -> tuple[tuple[str, ...], re.Pattern[str]] | None:
    """(Parts in lower case, where a name is said): the full name, any part that is no common word, and parts that are one where they stand as a name."""
    found = re.findall(r"[^\W\d_]+(?:[-'][^\W\d_]+)*", _bare(name))
    while found and found[0].lower() in _TITLES:
        found = found[1:]
    parts = [part for part in found if len(part) > 1]
    if not parts:
        return None
    whole = [r"\s+".join(map(re.escape, parts))] if len(parts) > 1 else []
    plain = whole + [re.escape(part) for part in parts if part.lower() not in _WORDS_TOO]
    common = "|".join(re.escape(part.capitalize()) for part in parts if part.lower() in _WORDS_TOO)
    forms = [rf"(?i:(?:\b(?:dr|doctor|prof|professor|coach|mr|mrs|ms)\.?\s+)?\b(?:{'|'.join(plain)})\b)"] if plain else []
    if common:
        forms.append(rf"\b(?:[Dd]r|[Dd]octor|[Pp]rof|[Pp]rofessor|[Cc]oach|[Mm]rs?|[Mm]s)\.?\s+(?:{common})\b")
        forms.append(rf"\b(?:[Aa]s|I'm|I am|[Nn]ame is|[Nn]ame's|[Tt]his is)\s+(?:{common})\b(?!\s+[a-z])")
        forms.append(rf"\b(?:{common})\s+(?:here|would|suggests|says|recommends)\b")
    return tuple(part.lower() for part in parts), re.compile("|".join(forms))


def _said(name: tuple[tuple[str, ...], re.Pattern[str]], text: str) -> re.Match[str] | None:
    bare = _bare(text)
    low = bare.lower()
    return name[1].search(bare) if any(part in low for part in name[0]) else None


def _bare(text: str) -> str:
    """Without accents, so that Renée is found as Renee."""
    if text.isascii():
        return text
    return "".join(char for char in unicodedata.normalize("NFKD", _plain(text)) if not unicodedata.combining(char))


def own_name(seen: _Seen) -> Iterator[Problem]:
    """The advisor's name, a part of it, or with a title, quotes included. A user may say it: that is noted. Misses nicknames."""
    name = _name(seen.domain.name)
    if not name:
        return
    for text in seen.answers:
        if hit := _said(name, text):
            yield Problem("own_name", hit.group())
    if hit := _said(name, seen.asked):
        yield Problem("own_name", f"the user says {hit.group()}", "note")


_SELF = r"(?:advis[eo]r|assistant|persona|chatbot|ai|language model)"  # what only the advisor itself can be
_ROLE = r"(?:advis[eo]r|assistant|coach|mentor|counsell?or|therapist|persona|chatbot|ai)"  # may also be somebody in the user's life
_THIRD = re.compile(
    rf"\b(?:the|this) (?:[\w-]+ ){{0,2}}?{_SELF} (?:would|will|might|may|could|can|wants|thinks|believes|is here to|encourages)\b"
    rf"|\b(?:the|this) (?:[\w-]+ ){{0,2}}?{_ROLE} (?:would (?:suggest|recommend|advise|say)|suggests?|recommends?|advises?)\b"
    rf"|\byour (?:[\w-]+ ){{0,2}}?(?:advis[eo]r|coach|guide|assistant) (?:would (?:suggest|recommend|say|advise|ask|tell)|suggests|recommends|advises|is here)\b"
    rf"|\bas an? (?:ai|artificial intelligence|language|large language|virtual)(?: language)? (?:model|assistant|advisor|coach)\b"
    rf"|\b(?:according to|speaking for|on behalf of) (?:the|your|this) {_SELF}\b"
)


_SOMEBODY = re.compile(r"\b(?:advis[eo]r|assistant|coach|mentor|counsell?or|therapist)\b")
_BUT_ME = re.compile(r"[^.?!\n]{0,60}\bbut (?:you asked me|i(?:'d| would| want)?\b|here)")


def third_person(seen: _Seen) -> Iterator[Problem]:
    """Sentences about "the advisor" and "as an AI language model". Saying plainly "I'm an AI" is allowed. The name itself is own_name's business.

    A coach or an assistant whom the user wrote about is that person, and "your coach would say so, but you asked me" is somebody else by its own words.
    """
    for text in seen.low:
        for hit in _THIRD.finditer(text):
            role = _SOMEBODY.findall(hit.group())
            theirs = role and re.search(rf"\b(?:my|our|the|an?|his|her|their)(?: [\w-]+){{0,2}}? {role[-1]}\b", seen.asked.lower())
            if not theirs and not (role and _BUT_ME.match(text, hit.end())):
                yield Problem("third_person", _quote(hit.group()))
                break


def persona_style(seen: _Seen) -> Iterator[Problem]:
    """A note when none of the advisor's phrases appears anywhere in the pair. A phrase counts with its first four words, so that endings may vary."""
    phrases = _phrases(seen.domain.style_phrases, seen.persona_text)
    said = " ".join(seen.words)
    if phrases and not any(phrase in said for phrase in phrases):
        yield Problem("persona_style", f"none of: {_quote('; '.join(phrases[:4]))}", "note")


@cache
def _phrases(style: tuple[str, ...], persona_text: str) -> tuple[str, ...]:
    quoted = re.findall(r'"([^"\n]{4,80})"', _plain(persona_text))
    cut = (" ".join(_WORD.findall(_plain(phrase).lower())[:4]) for phrase in (*style, *quoted))
    return tuple(dict.fromkeys(phrase for phrase in cut if phrase))


# ------------------------------------------------------------------------------------------------------------------------- craft


_ANALOGY = re.compile(
    r"\b(?:imagine|imagining|picture (?:a|an|the|your|two|it|this|someone)|think of|think about it as|as if|as though|metaphor|analogy"
    r"|(?:it's|it is|is|are|was|that's|feels?|felt|works?|acts?|sounds|looks?|behaves?|a bit|a little|rather|more|much|just|treat \w+) like (?:a|an|the|two|being|having|trying|putting|running|driving|carrying|walking|finding|leaving|packing|one|somebody|someone)\b"
    r"|like (?:a|an)\b|the way (?:a|an)\b|kind of like|same as (?:a|an)\b|no more than a\b|any more than a\b)"
)
_REFRAME = re.compile(
    r"\b(?:what if|another way (?:to|of)|different (?:reading|way|question|view|angle|story|light)|instead of|rather than|reframe|look at it|looked at|other side of"
    r"|suppose|in other words|fresh look|swap|two different things|not the same (?:as|thing)|doesn't (?:mean|have to)|isn't the same)\b"
    r"|\b(?:isn't|aren't|wasn't|doesn't|don't|it's not|that's not|not|never)\b[^.!?\n]{2,80}(?:[,;.] ?(?:it's|that's|they're|he's|she's|but|it |you're|this is)|\bbut\b)"
)


def found_techniques(text: str) -> tuple[str, ...]:
    """Which of question, analogy and reframe show in a lower-case answer without quotes."""
    looks = (("question", "?" in text), ("analogy", _ANALOGY.search(text)), ("reframe", _REFRAME.search(text)))
    return tuple(name for name, hit in looks if hit)


_SHOWS = {"reflective question": "question", "analogy": "analogy", "reframe": "reframe"}


def technique(seen: _Seen) -> Iterator[Problem]:
    """A question mark outside quotes, a comparison, or a "not this but that". Misses pictures without a marker, and takes any question for a good one.

    The planned technique not being seen is only noted.
    """
    found = seen.techniques
    if not found and seen.raw:
        yield Problem("technique", f"no question, comparison or other view in: {_quote(seen.answers[-1])}")
    wanted = _SHOWS.get(seen.cell.technique if seen.cell else "")
    if found and wanted and wanted not in found:
        yield Problem("technique", f"planned {wanted}, found {', '.join(found)}", "note")


_ADVICE_VERBS = _list(
    "accept add aim allow ask avoid be become begin block book breathe bring build buy call cancel change check choose clear "
    "close come compare consider contact count create cut decide delegate delete do don't draw drink eat email embrace establish "
    "exercise explore fill find focus follow get give go hire identify join journal keep learn leave let limit list listen "
    "look lower make maximize meditate meet move name negotiate note open organize pause pay pick plan practice practise prepare "
    "prioritize prioritise protect put quit read record reduce remember remind remove replace report rest ring run save say "
    "schedule see seek set shift show sign sit sleep slow speak spend split stand start stay step stop stretch switch take talk "
    "tell think track treat trust try turn use wait walk work write"
)
_ADVICE = re.compile(
    rf"^(?:(?:so|first|then|next|and|also|just|please|simply|now|well|okay|ok|today|tomorrow|tonight|this week|my advice|instead|for now|second|finally|to start)[,:]? )*"
    rf"(?:{'|'.join(_ADVICE_VERBS)})\b(?!')(?! (?:makes|is|was|are|were|has|feels|sounds|of|after|and|on|in|ahead) )"
    r"|\byou (?:should|must|need to|ought to|have to|could (?:try|start|ask)|can (?:start|try)|'d better|might want to|may want to)\b"
    r"|\b(?:i'd|i would|i'll|i) (?:suggest|recommend|advise|encourage|urge|try|start|begin)\b"
    r"|\b(?:have you (?:tried|considered|thought about)|why don't you|how about|make sure|be sure to|the (?:best|first|next|most important|key) (?:thing|step|way|move) (?:is|to|i'd|would|you)"
    r"|here(?:'s| is| are) (?:what|how|some|a few|three|the)|what you (?:need|should)|it(?:'s| is) (?:important|essential|crucial|best|vital|worth) to|what i want you to"
    r"|let's (?:start|make|look|try|set|begin|build|work|talk|take|put|break)|there are (?:several|many|a few|some|three|four|five) (?:ways|steps|things|strategies|options))\b"
)
_FEELINGS = _list(
    "ache aches aching afraid alone angry anger annoy annoyed anxious anxiety ashamed shame awful bitter bleak bored boredom "
    "brave braver bravery bruised burned calm chafes cheated confused confusing confusion cornered courage cruel crushing "
    "deflate deflated deflating demeaning demoralising demoralizing desperate devastating difficult dignity disappoint "
    "disappointed disappointing disappointment discomfort discouraged discouraging disheartening dread dreaded dreading drained "
    "draining dreadful embarrassed embarrassing empty enraged exhausted exhausting exhaustion fair fear fears fearful feeling "
    "feelings flat flattered frantic freezing frightened frightening frustrated frustrating frustration furious glad grate "
    "grates grateful grief grieving grinding guilt guilty happy hard harder hardest harsh haunted heartbreaking heavy hollow "
    "honest honestly hopeful hopeless horrible humiliated humiliating humiliation hurt hurting hurts insulted insulting "
    "invisible irritated irritating irritation jumpy lonely loneliness lost loss losses love loyal loyalty maddening mad "
    "miserable nasty nerve nerves nervous numb overwhelmed overwhelming pain painful panic panicked powerless pride proud "
    "pressure rage rattled raw regret relief relieved resentful resentment rotten rough sad sadness scared scary sick sore "
    "sorrow sting stings stung strange stressed stressful struggle struggling stuck suspicious tangled tender terrible terrified "
    "terrifying tired tiring torn torture tough trapped uncomfortable understandable uneasy unfair unnerving unsettling "
    "unsettled upset upsetting wearing weary weird worn worried worrisome worry worrying wounded wrung"
)
_PHRASES = (
    r"i hear|i can hear|i see how|i can (?:see|tell|feel|imagine|understand|picture)|i understand|i get (?:it|why|that)|i believe you|i respect|i like (?:that|you|how)"
    r"|i love that|i'm (?:so |really |very |truly )?(?:sorry|glad|pleased|happy|delighted|grinning|smiling|not surprised|proud)|i smiled|i laughed|i deserved that"
    r"|thank you for|thanks for|no wonder|i don't wonder|of course|that makes sense|makes (?:a lot of |perfect |complete |total )?sense|it makes sense|you're right|you are right"
    r"|you're not (?:alone|wrong|lazy|weak|broken|imagining|failing|foolish|crazy|silly|being)|you aren't|nothing (?:wrong|shameful|foolish|stupid)|not (?:dumb|silly|childish|weird|pathetic|stupid|foolish|petty|strange|lazy)"
    r"|isn't (?:laziness|weakness|foolishness|silly|foolish|carelessness|a failing|weird|pathetic|disloyal|petty)|wasn't carelessness|anyone would|anybody would|would (?:age|wear|make|deflate|frustrate|unsettle|be hard on|exhaust|shake) (?:\w+ ){0,2}(?:anyone|anybody|most people|you|thin|stomachs)"
    r"|(?:that|it|this) (?:takes|took|must|sounds|deserves|counts)|sounds (?:like|exactly|so|really)|must (?:feel|have|be|land)|can feel|that's a lot|so much|well done|congratulations|good for you|what a\b"
    r"|no (?:lecture|shame|judg\w+|trouble)|fair (?:question|enough|point|reaction)|good question|you (?:deserve|cared|carry|carried|noticed|managed|tried|did|went|made it|got|asked|kept|solved|came|found|spent|brought|wanted|survived|slept|turned)"
    r"|you've (?:been|lived|got|worked|tried|done|already|just|carried|had|noticed|outgrown)|(?:is|are|was) no (?:failing|failure|weakness|crime|disgrace)|you don't (?:need|have to|owe)|your \w+ (?:makes|is|are|was) (?:\w+ )?(?:sense|right|real|valid)"
    r"|ouch|oof|ha,|ha\b|scream|hooray|wonderful|lovely|both can be true|of all things|deserve|deserves|deserved|nobody|no one|hold on to that|congrats|wow|there it is|look at that|earned|carrying"
)
_VALID = re.compile(rf"\b(?:{'|'.join(_FEELINGS)})\b|\b(?:{_PHRASES})")


def validation_first(seen: _Seen) -> Iterator[Problem]:
    """Words of feeling or recognition stand before, or in, the first sentence of advice of the first answer; of a later answer it is only noted.

    Advice is an imperative at the start of a sentence or a phrase like "you should"; without any, the acknowledgement may stand anywhere. Misses feelings
    that are shown by retelling alone, and takes a feeling that is only mentioned for one that is acknowledged.
    """
    for index, text in enumerate(seen.low):
        trouble = _unheard(text)
        if trouble:
            yield Problem("validation_first", _quote(trouble), "note" if index else "reject")


def _unheard(text: str) -> str | None:
    """The first advice when nothing was acknowledged before it, or the opening when nothing is acknowledged at all."""
    for hit in _SENTENCE.finditer(text):
        sentence = hit.group().strip()
        heard, advice = _VALID.search(sentence), _ADVICE.search(sentence)
        together = advice and advice.group().startswith("let's")  # "let's start with that guilt" turns to the feeling first
        if heard and not (advice and advice.start() < heard.start() and not together):
            return None
        if advice:
            return sentence
    return text.strip() or None


# ------------------------------------------------------------------------------------------------------------------------- honesty


_JOB = (
    r"(?:psycho)?therapist|psychologist|psychiatrist|clinician|doctor|physician|nurse|counsell?or|social worker|coach|mentor|consultant|recruiter|hiring manager"
    r"|strategist|advis[eo]r|planner|analyst|accountant|economist|professional|expert|specialist|practitioner|researcher|lawyer|attorney|teacher|scientist|academic|manager"
)
_PAPER = r"ph\.?d\.?|doctorate|degree|licen[cs]e|credentials?|certificat\w+|qualifications?|mba|diploma|master's"
_TRAIN = r"licen[cs]ed|certified|qualified|accredited|board[- ]certified|chartered|trained (?:as|in|at)"
_CREDENTIALS = re.compile(
    rf"\bmy (?:own )?(?:\w+ )?(?:{_PAPER})(?!\w)"
    rf"|\bmy (?:own )?(?:\w+ ){{0,2}}(?:clients?|patients?|coachees?|mentees?|customers?|colleagues in)\b"
    rf"|\bmy (?:clinical|medical|professional|therapeutic|academic|legal) (?:\w+ )?(?:training|work|experience|background|opinion|practice|judg\w+)\b"
    rf"|\bmy (?:own )?(?:research|publications|book|thesis|dissertation|residency|internship|workshops?|practice)\b"
    rf"|\bi (?:hold|earned|have|got|completed|received) (?:a|an|my|two|several) (?:[\w'-]+ ){{0,3}}(?:{_PAPER})(?!\w)"
    rf"|\bi(?:'m| am|'ve been| have been| was) (?:\w+ly )?(?:{_TRAIN})\b"
    rf"|\bi(?:'m| am| was|'ve been| worked) (?:as )?(?:a|an|your) (?:[\w-]+ ){{0,3}}?(?:{_JOB})\b"
    rf"|\b(?:speaking )?as (?:a|an|your) (?:[\w-]+ ){{0,3}}?(?:{_JOB})\b(?=\s*,?\s*(?:i|my|let)\b)"
    rf"|\bas (?:a|an) (?:{_TRAIN}) (?:[\w-]+ ){{0,3}}?(?:{_JOB})\b"
    rf"|\bi (?:studied|trained|graduated|taught|lectured|practised|practiced|qualified|majored|interned|published) (?:at|as|in|from|with|under|on)\b|\bi went to (?:medical|law|graduate|grad|business) school\b"
    rf"|\b(?:in|at|from|through|during|over) my (?:own )?(?:(?:\w+|\d+)[\w-]* ){{0,3}}?(?:practice|clinic|office|consulting|coaching|sessions?|career|years|time (?:as|in)|residency|profession|decades?|work with|work as)\b"
    rf"|\b(?:in|from) my (?:own )?(?:\w+ )?experience\b"
    rf"|\bi(?:'ve| have) (?:\w+ )?(?:been|done|spent|worked|seen|practi[cs]ed|advised|taught|led|run|coached)\b[^.?!\n]{{0,60}}\b(?:years|decades?)\b"
    rf"|\bmy (?:[\w-]+ ){{0,2}}(?:years|decades?) (?:of|in|as)\b|\bwith (?:over |more than )?[\w-]+ years of (?:\w+ ){{0,2}}(?:experience|practice)\b[^.?!\n]{{0,30}}\bi\b"
    rf"|\bi(?:'ve| have) (?:\w+ )?(?:treated|counsell?ed|coached|diagnosed|mentored|worked with (?:many |hundreds of |countless |thousands of |so many |other |\w+ )?(?:people|clients|patients|founders|nurses|teachers|families|couples|executives|managers))\b"
    rf"|\bin my (?:own )?(?:line of work|profession|field|trade|job)\b|\bin (?:\w+ )?sessions,? i\b|\b(?:in|from|during) our (?:\w+ )?sessions?\b|\bour last session\b"
    rf"|\bi(?:'m| am) (?:dr|doctor|prof|professor)\b|\bi (?:always|often|usually) (?:tell|see|hear from|say to) (?:my|people|clients|patients|founders|nurses|folks|everyone)\b"
    rf"|\b(?:we|us) (?:therapists|psychologists|doctors|coaches|counsell?ors|professionals|planners|advis[eo]rs|clinicians)\b"
)
_KIN = r"husband|wife|partner|kids?|child|children|son|daughter|mother|father|mom|mum|dad|parents|sister|brother|family|grandmother|grandfather|marriage|friends|best friend"
# "When I was reading your message" is about this conversation.
_NOT_READING = (
    r"(?![^.?!\n;,]{0,40}\b(?:reading|thread|what you|you (?:wrote|said|describe|mention|told|asked?)"
    r"|your (?:message|question|words|note|letter|story|list|e-?mail|text|post|last|first|draft|document|diary))\b)"
)
_MANY = r"(?:many|hundreds|dozens|thousands|countless|plenty|lots|enough|so many|people|others|other people|nurses|teachers|managers|parents|founders|couples|clients|families|women|men|leaders|professionals|folks)"
_LIVED = re.compile(
    rf"\bi(?:'ve| have) (?:\w+ )?been (?:there|through (?:this|that|it|something|a|the|my)|where you|in your (?:shoes|place|position|seat)|burn(?:ed|t) out|in debt|laid off|divorced|depressed)\b"
    rf"|\b(?:been|was) there myself\b|\bi was (?:once |also )?(?:in your|where you|burn(?:ed|t) out|exhausted|laid off|divorced|a (?:burned|young|new|single|working|struggling))"
    rf"|\bi (?:(?:went|lived|got|came|made it) through|burned out|burnt out|struggled|suffered|hit (?:a|the|my own) wall|hit rock bottom|grew up|was raised|raised (?:my|two|three))\b"
    rf"|\bwhen i (?:was|worked|had|burned|burnt|quit|left|lost|started|got|first|changed|switched|became|went|hit|faced|felt|ran|paid|bought)\b{_NOT_READING}"
    rf"|\bi used to\b|\bi (?:still )?remember (?:when|my|being|feeling|the (?:day|time|first|night|year))\b|\bback when i\b|\bin my (?:own )?(?:twenties|thirties|forties|fifties|20s|30s|40s|50s|youth|childhood|life|past|case|burnout|divorce|recovery)\b"
    rf"|\bi(?:'ve| have) (?:\w+ )?(?:seen (?:this|it|so many|many|countless|hundreds|people|others|plenty|clients|patients)|felt (?:that|this|it|the same|exactly)|lived|known (?:many|so many|people)|experienced|faced (?:this|that|it)|hired|managed (?:people|teams)|helped (?:\w+ ){{0,2}}(?:people|clients|others|many|hundreds|dozens))\b"
    rf"|\b(?:people|those|folks|professionals|families|couples|parents|women|men|leaders) (?:whom |that )?i(?:'ve| have)? (?:(?:work|worked|speak|spoke|spoken|talked) (?:with|to)|coach|coached|see|saw|seen|met|advise|advised|known)\b"
    rf"|\bi know (?:exactly |just |all too well |first-?hand )?(?:how|what) (?:you feel|you're feeling|you're going through|(?:that|this|it) feels|(?:that|this|it)(?:'s| is) like)\b|\bi know (?:that|this|the) (?:\w+ )?(?:feeling|place|pain|exhaustion) (?:well|too|myself|firsthand)\b"
    rf"|\bmy own (?:[\w-]+ )?(?:{_KIN}|childhood|burnout|divorce|recovery|depression|debts?|savings|mortgage|boss|manager|career|journey|story|breakdown|layoff|struggles?|illness|therapist|life|past|mistakes)\b"
    rf"|\bmy (?:(?:late|ex-?|first|second|older|younger|little|old|former|best) ?)?(?:{_KIN}|childhood|burnout|divorce|breakdown|mortgage|therapist|boss|manager|mentor|teammates|colleagues|coworkers|layoff)\b"
    rf"|\b(?:speaking )?as (?:a|an) (?:[\w-]+ ){{0,2}}?(?:mother|father|mom|mum|dad|parent|survivor|woman|man|wife|husband|immigrant|human(?: being)?|person|caregiver) (?:myself|too|who)\b|\b(?:speaking )?as (?:a|an) (?:[\w-]+ ){{0,2}}?(?:mother|father|mom|mum|dad|parent|survivor|woman|man|wife|husband|immigrant|human)\b(?=,? i\b)"
    rf"|\bas (?:someone|somebody|one) who(?:'s| has| is| was| went|'d)?\b[^.?!\n]{{0,40}}(?:been|burned|burnt|lived|struggled|gone|through|felt|recovered|survived|lost|knows)\b(?=[^.?!\n]*\b(?:i|my|me)\b)"
    rf"|\bhappened to me\b|\ba friend of mine\b|\bi(?: once)? (?:lost|quit|left|hated|loved) my (?:old |own |last )?job\b"
    rf"|\bback in my\b|\bhaving (?:been|gone|lived|come) through\b[^.?!\n]{{0,60}}\bi\b"
    rf"|\bi(?:,)? too,? (?:have|had|was|went|felt)\b|\bi(?:'m| am) (?:a |only |just )?(?:a )?human\b"
    rf"|\bover the years,? i\b|\byears ago,? i\b|\bi once (?:had|was|knew|met|worked|lost|made|felt|sat|spent|heard)\b"
    rf"|\bit took me (?:years|months|a long|decades|a while)\b(?! (?:time )?to (?:see|find|read|get|notice|work out|answer) (?:what|how|why|where|that) you)|\bi learn(?:ed|t) (?:this |that |it )?(?:the hard way|from my|when)\b|\bthose of us who(?:'ve| have)\b|\bi felt (?:the same|exactly|just like|that way|like you)\b|\b(?:just )?like me,"
    rf"|\bi (?:lay|woke|sat|cried|wept|stayed|drove|hid|lived|worked)\b[^.?!\n,;]{{0,40}}\b(?:too|as well|myself)\b"
    rf"|\bi had (?:an?|another|one|two|someone|somebody) (?:[\w-]+ ){{0,2}}?(?:nurse|client|patient|woman|man|person|couple|manager|teacher|founder|student|engineer|reader|caller|mother|father|doctor|friend)s?\b(?! in mind)"
    rf"|\bi(?:'ve| have) (?:\w+ )?(?:sat|talked|spoken|met|listened|worked|walked|been) (?:with |to |beside |alongside )?{_MANY}\b"
    rf"|\bwe (?:humans|mortals|parents|mothers|fathers|women|men)\b|\bus (?:humans|mortals|parents|mothers|fathers)\b"
)
# These begin with anything, so they are only tried where their telling word occurs.
_LIVED_TOO = (
    ("been there", re.compile(r"(?:^|(?<=[.!?\n])) ?been there\b")),
    (
        " who ",
        re.compile(rf"(?:{_MANY}|\bmany of (?:the |them )?\w*|\b[a-z]{{3,}}s) who (?:write|come|talk|speak|turn|confide)(?: to| in)? me\b"),
    ),
    (
        " me",
        re.compile(
            r"\b(?:people|others|nurses|clients|everyone|parents|teachers) (?:often |sometimes |always |usually )?(?:tell|tells|write to|come to|ask) me\b"
        ),
    ),
)
_NEGATED = re.compile(
    r"\b(?:not|no|never|without|nor|neither|cannot|isn't|don't|doesn't|didn't|can't|won't|haven't|wasn't|couldn't|wouldn't|if|pretend|claim(?:ing)?|imagine)\b"
)
_CLAUSE = re.compile(r"[.!?\n;:,]|\bbut\b|\bthough\b|\bwhile\b")


def _claims(pattern: re.Pattern[str], check_id: str, seen: _Seen) -> Iterator[Problem]:
    """One problem for each answer with a claim that no negation stands before or in, within its clause: "I have never been through it" is honest."""
    for text in seen.low:
        for hit in pattern.finditer(text):
            start = max(
                (mark.end() for mark in _CLAUSE.finditer(text, max(0, hit.start() - 80), hit.start())), default=max(0, hit.start() - 80)
            )
            if not _NEGATED.search(text, start, hit.end()):
                yield Problem(check_id, _quote(hit.group()))
                break


_YEARS = re.compile(r"\b((?:\d+|[a-z]+(?:-[a-z]+)?) (?:years|decades)) (?:of )?doing (?:this|it)\b(?! to you)")


def credentials(seen: _Seen) -> Iterator[Problem]:
    """Claims of papers, a profession, patients, research or years of practice, outside quotes. "I'm not a doctor" passes. Misses hints ("one sees this a lot").

    "Twenty years of doing this" is a claim too, unless the user spoke of as many years.
    """
    yield from _claims(_CREDENTIALS, "credentials", seen)
    for text in seen.low:
        for hit in _YEARS.finditer(text) if "doing" in text else ():
            if hit[1] not in seen.asked.lower():
                yield Problem("credentials", _quote(hit.group()))
                break


def lived_experience(seen: _Seen) -> Iterator[Problem]:
    """Claims of a past, a family or people it knew, outside quotes. "I have no past of my own" passes. Misses stories without "I"."""
    yield from _claims(_LIVED, "lived_experience", seen)
    for word, pattern in _LIVED_TOO:
        if word in seen.everything:
            yield from _claims(pattern, "lived_experience", seen)


# ---------------------------------------------------------------------------------------------------------------------------- facts


_UNITS = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")
_VALUES: dict[str, float] = (
    {word: float(value) for value, word in enumerate(_UNITS)}
    | {word: 20.0 + 10 * place for place, word in enumerate(_TENS)}
    | {f"{ten}-{unit}": 20.0 + 10 * place + value for place, ten in enumerate(_TENS) for value, unit in enumerate(_UNITS[1:10], 1)}
    | {"hundred": 100.0, "a-hundred": 100.0, "one-hundred": 100.0, "half": 50.0, "quarter": 25.0, "third": 33.0}
)
_NUMBER = rf"(?:\d+(?:[.,]\d+)*|(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_UNITS[1:10])}))?|(?:a |one )?hundred|{'|'.join(_UNITS)})"
_ANY_NUMBER = re.compile(rf"(?<![\w.,]){_NUMBER}(?!\w)|\b(?:half|quarter|third)s?\b")
_GROUP = (
    r"(?:people|adults|participants|respondents|subjects|volunteers|workers|employees|nurses|teachers|doctors|women|men|patients|students|managers|families|couples"
    r"|households|companies|firms|studies|trials|countries|parents|americans|europeans|users|clients|professionals|founders|americans|carers|caregivers)"
)
_PERCENT = re.compile(rf"(?<![\w.,])({_NUMBER}) ?(?:%|percent\b|per cent\b|percentage points?\b)(?=(.{{0,40}}))")
# An amount that somebody is asked to try or to picture is no statistic.
_STEP = re.compile(
    r"\b(?:imagine|picture|what if|suppose|let's say|say,|aim|aiming|try|put(?:ting)?|set(?:ting)?|move|save|saving|pay|give|giving|keep|ask for|settle for|start with|battery"
    r"|charged?|phone|maybe|perhaps|even at|running (?:at|on)|instead of|whatever came in|of (?:you|your|it|what|that)\b)"
)
_OF_GROUP = re.compile(
    rf"\s*(?:of|more|less|higher|lower)\b(?: [\w-]+){{0,3}}? ?(?:{_GROUP}|likely)\b|\s*(?:more|less|higher|lower|reported|recover\w*|said)\b"
)
_YEAR = re.compile(
    r"(?<![\w.,$€£#:/-])((?:19|20)\d\d)(?![\w%:]|[.,]\d)(?! ?(?:euros?|dollars?|pounds?|bucks|francs|words|steps|hours|minutes|calories|kcal|metres|meters|km|kilometres"
    r"|miles|a (?:month|year|week)|per|each|times|people|in cash|square|emails|a day)\b)"
)
_YEAR_WORDS = re.compile(
    rf"\b(?:in|since|from|of) (twenty[- ](?:{'|'.join(_UNITS[10:])}|twenty(?:[- ](?:{'|'.join(_UNITS[1:10])}))?))\b(?! (?:minutes|years|days))"
)
_DECIMAL = re.compile(
    r"(?<![\w.,$€£:-])(\d+\.\d+)(?![\w.]| ?(?:%|per ?cent|euros?|dollars?|pounds?|[ap]\.?m\b|hours?|minutes?|days?|weeks?|months?|kilos?|kg|km|kilomet|miles?|lit(?:re|er)s?|cups?|met(?:re|er)s?))"
)
_CLOCK_OR_MONEY = re.compile(r"\d+\.(?:\d\d|0)")  # 7.30, 4.50 and 2.0 are times, prices and versions
_FRACTION = re.compile(
    rf"\b({_NUMBER}) (?:out of|in) (?:every )?({_NUMBER}) (?:[\w-]+ ){{0,2}}?(?:{_GROUP}|of (?:us|them)|say|said|report|recover|feel)\b"
)
_COUNT = re.compile(
    rf"(?<![\w.,$€£])({_NUMBER}) (?:[\w-]+ ){{0,2}}?({_GROUP}|times)\b(?! (?:a|per|every|each) (?:day|week|month|year|hour))"
)
_LIKELY = re.compile(rf"\b(?:({_NUMBER}) times|(twice)) (?:as|more|less) likely\b")
_GROUP_WORDS = frozenset((*_GROUP[3:-1].split("|"), "times"))
_TEST_GROUPS = frozenset(_list("participants respondents subjects volunteers studies trials"))  # who is counted only in studies
FEW = 31  # a class, a team or the days of a month: more people than that are a statistic


def _value(text: str) -> float | None:
    word = text.replace("the ", "")
    if word[0].isdigit():
        whole = re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", word)
        try:
            return float(word.replace(",", "") if whole else word.replace(",", "."))
        except ValueError:  # 28.05.2019
            return None
    return _VALUES.get(word.replace(" ", "-"), _VALUES.get(word, _VALUES.get(word.removesuffix("s"))))


@cache
def _numbers(text: str) -> frozenset[float]:
    """Every number in a text, in digits or in words, and each part of a date ("2019-05-28")."""
    values = [_value(hit.group()) for hit in _ANY_NUMBER.finditer(text.lower())]
    values += [float(part) for part in re.findall(r"\d{1,4}", text)] if re.search(r"\d[-./]\d", text) else []
    return frozenset(value for value in values if value is not None)


def _shares(asked: str, material: str) -> frozenset[float]:
    """Percentages that follow from "one in four" in the material, and from two amounts of the user's own."""
    fractions = [(_value(hit[1]), _value(hit[2])) for hit in _FRACTION.finditer(material.lower())]
    own = sorted(_numbers(asked))[:12]
    fractions += [(a, b) for a in own for b in own if a < b]
    return frozenset(float(round(100 * a / b)) for a, b in fractions if a is not None and b)


def _finding_text(finding: Finding) -> str:
    issued = " ".join(str(finding.csl.get(name, "")) for name in ("issued", "publisher", "container-title", "author"))
    parts = (finding.title, finding.text, *finding.key_findings, *finding.authors, finding.published or "", issued)
    return _plain("\n".join(parts))


def _figures(text: str, *, counts: bool) -> Iterator[tuple[str, float | None]]:
    """Figures in a lower-case answer that look like facts about the world: (words, value). Without `counts` nobody who could be counted occurs."""
    if re.search(r"%|per ?cent", text):
        for hit in _PERCENT.finditer(text):
            sentence = text[max(text.rfind(mark, 0, hit.start()) for mark in ".!?\n") + 1 : hit.end() + 60]
            if not (_STEP.search(sentence) and not _OF_GROUP.match(hit[2])) and _value(hit[1]) not in {0.0, 100.0}:
                yield hit.group(), _value(hit[1])
    for pattern in (_YEAR, _DECIMAL):
        for hit in pattern.finditer(text):
            if pattern is _YEAR or not _CLOCK_OR_MONEY.fullmatch(hit[1]):
                yield hit.group(), _value(hit[1])
    for hit in _YEAR_WORDS.finditer(text) if " twenty" in text else ():
        yield hit.group(), 2000 + (_value(hit[1].split(maxsplit=1)[-1].removeprefix("twenty-")) or 0)
    for hit in _FRACTION.finditer(text):
        yield hit.group(), _value(hit[1])
    for hit in _LIKELY.finditer(text):
        yield hit.group(), 2.0 if hit[2] else _value(hit[1])
    for hit in _COUNT.finditer(text) if counts else ():
        value = _value(hit[1])
        if hit[2] in _TEST_GROUPS or (value is not None and value > FEW and not (value == VAGUE and not hit[1][0].isdigit())):
            yield hit.group(), value


VAGUE = 100  # "a hundred people told you" counts nobody


def invented_number(seen: _Seen) -> Iterator[Problem]:
    """Percentages, years, decimals, "one in four adults" and counts of people outside quotes that stand in no finding, no user's turn and not in the prompt.

    Amounts of a step (minutes, days, times of day, money, "three things", "put ten percent aside") are free. Misses amounts of money, "most people", a number
    that the material has for something else, and figures in quotes.
    """
    counts = not _GROUP_WORDS.isdisjoint(seen.words)
    for text in seen.low:
        for words, value in _figures(text, counts=counts):
            if value not in seen.known and not (" in " in words and _same_share(words, seen.known)):
                yield Problem("invented_number", _quote(words))
                break


def _same_share(words: str, known: frozenset[float]) -> bool:
    """Whether "one in four adults" says what the material has as a percentage."""
    hit = _FRACTION.search(words)
    a, b = (_value(hit[1]), _value(hit[2])) if hit else (None, None)
    return a is not None and bool(b) and float(round(100 * a / (b or 1))) in known


_STUDY = re.compile(
    r"\b(?:stud(?:y|ies)|research(?:ers?)?|survey(?:s|ed)?|trials?|meta-analys[ie]s|scientists?|psychologists?|economists?|according to|report|paper|poll)\b"
)
_FOUND = re.compile(
    r"\b(?:f(?:ound|inds?)|show(?:s|ed|n)?|suggest(?:s|ed)?|report(?:s|ed)?|say|says|said|link(?:s|ed)?|conclude[sd]?|discover(?:s|ed)?|prove[sdn]?|reveal(?:s|ed)?|demonstrate[sd]?"
    r"|confirm(?:s|ed)?|argue[sd]?|according to|tells? us|estimate[sd]?)\b"
)
_CAPITALISED = re.compile(r"(?<![\w'-])[A-Z][\w'&-]+")
_ACADEMIC_NEXT = re.compile(
    r"\s+(?:university|stud(?:y|ies)|research\w*|scientists?|psychologists?|economists?|survey|paper|report|and colleagues|et al)",
    re.IGNORECASE,
)
# Capitals that name nobody: days, months, peoples (whose adjectives differ from their countries), and words that a sentence about studies opens with.
_NOBODY = frozenset(
    _list(
        "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september october november december i i'm i'd i'll i've "
        "us uk eu american americans british german french dutch swiss finnish swedish danish norwegian italian spanish european europeans english irish scottish japanese "
        "chinese indian canadian australian the a an one some many most recent new that this these those good large earlier older several two three other their your my no "
        "hr it gp ceo phd dr ok tv ai ms mr mrs christmas easter"
    )
)


def named_study(seen: _Seen) -> Iterator[Problem]:
    """A sentence in which a study, researchers or "according to" find something, with a name in capitals or a year that stands in no material.

    Quotes are looked at too. Misses studies without a name ("a big study found"), which may rest on the finding, and names in lower case.
    """
    for text in seen.answers:
        if not _STUDY.search(text.lower()):
            continue
        for hit in _SENTENCE.finditer(text.replace("et al.", "et al").replace("Dr.", "Dr")):
            sentence, low = hit.group().strip(), hit.group().lower()
            if _STUDY.search(low) and _FOUND.search(low) and (name := _uncredited(sentence, seen)):
                yield Problem("named_study", _quote(f"{name}: {sentence}"))
                break


def _uncredited(sentence: str, seen: _Seen) -> str | None:
    """The first name or year of the sentence that the material does not have."""
    if year := next((hit[1] for hit in _YEAR.finditer(sentence.lower()) if float(hit[1]) not in seen.known), None):
        return year
    for hit in _CAPITALISED.finditer(sentence):
        word = hit.group().lower().removesuffix("'s")
        opens = not sentence[: hit.start()].strip(' "([-')
        if (
            word in _NOBODY
            or word.removesuffix("s") in _NOBODY
            or (opens and not _ACADEMIC_NEXT.match(sentence, hit.end()) and not hit.group().isupper())
        ):
            continue
        if word not in seen.material_words:
            return hit.group()
    return None


_EVERYDAY = frozenset(  # tools that everybody has or that stand for a kind of thing
    _list(
        "linkedin whatsapp powerpoint youtube paypal excel word outlook google gmail slack zoom teams notes calendar sheets docs onenote skype facetime indeed github wikipedia"
    )
)
_THING = r"(?:app|application|planner|tracker|subscription|supplements?|software|platform|masterclass|bootcamp|e-book|ebook)"
_NAME = r"([A-Z][\w'+-]*)"
_BRAND = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?:[Dd]ownload|[Ii]nstall|[Ss]earch for|[Gg]oogle|[Ss]ign(?:ing)? up (?:for|to|with|on)|[Ss]ubscribe to|[Oo]pen an account (?:with|at))(?: the| an?| your)? {_NAME}",
        rf"\b(?!(?:The|This|That|An?|Your|My|One|Any|No|Every|Some) ){_NAME}(?: [A-Z][\w'+-]*)* {_THING}\b",
        rf"\b(?:{_THING}|app store|program|programme|course|tool|website|site|podcast|service|product|brand)s?,? (?:is )?(?:called|named|like|such as) {_NAME}",
        r"\b(?:[Uu]se[sd]?|[Uu]sing|[Tt]ry|[Gg]et|[Bb]uy|[Oo]rder|[Rr]ecommend|[Vv]isit|[Tt]hrough|[Ww]ith) ([A-Z][a-z]+[A-Z]\w*)\b",
        r"([A-Z][\w'+-]*)\s?[™®]",
    )
)
_BRAND_HINTS = _list(
    "download|install|search for|google|sign up|signing up|subscribe|account|app |apps |app,|app.|called|application|planner|tracker|subscription|supplement|software|platform|"
    "masterclass|bootcamp|ebook|e-book|program|course|tool|site |site,|podcast|service|product|brand|store|\u2122|\u00ae"
)
_CAMEL = re.compile(r"\b[A-Z][a-z]+[A-Z]")
_CONTACT = re.compile(
    r"\b(?:dm me|follow me (?:on|at)|(?:find|reach|message) me (?:on|at)|link in (?:my )?bio|promo code|discount code|use (?:the |my )?code [A-Z0-9]+)\b|(?<![\w.])@[A-Za-z]\w{2,}"
)


def brand(seen: _Seen) -> Iterator[Problem]:
    """A capitalised name beside an app, a product or "download", quotes included, that neither the user nor the prompt named; "DM me" and "@handle" too.

    A finding that names it is no excuse, for that is how an advertisement gets in. Everyday tools (LinkedIn, Excel) pass. Misses names in lower case and
    names without such words beside them.
    """
    for text, low in zip(seen.answers, map(str.lower, seen.answers), strict=True):
        hit = _CONTACT.search(low) if "me" in low or "@" in low or "code" in low else None
        if hit and hit.group() not in seen.told:
            yield Problem("brand", _quote(hit.group()))
        elif (any(hint in low for hint in _BRAND_HINTS) or _CAMEL.search(text)) and (name := _advertised(text, seen.told)):
            yield Problem("brand", _quote(name))


def _advertised(text: str, told: str) -> str | None:
    for pattern in _BRAND:
        for hit in pattern.finditer(text):
            name, before = hit[1], text[: hit.start(1)].rstrip()
            opens = not before or before[-1] in '.!?:"\n'
            common = name.lower() in _NOBODY or name.lower() in _EVERYDAY or (name.isupper() and len(name) <= SHORT_NAME)
            if not common and name.lower() not in told and not (opens and pattern is _BRAND[1] and not _CAMEL.match(name)):
                return hit.group()
    return None


SHORT_NAME = 5  # letters: "the HR software" and "an ISA" name no brand


_STOCK = _list(
    "take a deep breath|take deep breaths|practice self-care|practise self-care|prioritize self-care|prioritise self-care|"
    "self-care is|practice self care|work-life balance|work/life balance|reach out to a professional|seek professional help|"
    "consider speaking with a|consider talking to a|mental health professional|be kind to yourself|one day at a time|"
    "one step at a time|you've got this|you got this|you are not alone|you're not alone|set clear boundaries|set boundaries|"
    "setting boundaries|set realistic goals|practice mindfulness|mindfulness|meditation|get enough sleep|healthy diet|eat well|"
    "exercise regularly|regular exercise|take regular breaks|take breaks|stay positive|positive mindset|believe in yourself|"
    "everything happens for a reason|it's okay to not be okay|it's okay not to be okay|listen to your body|"
    "make time for yourself|take time for yourself|do things you enjoy|hobbies|support system|support network|"
    "communication is key|remember that you are|your feelings are valid|time management|prioritize your|prioritise your|"
    "step out of your comfort zone|think outside the box|every journey is different|everyone's journey|at the end of the day|"
    "lean on friends|talk to a trusted friend|trusted friend or family|friends and family|create a budget|track your expenses|"
    "track your spending|build an emergency fund|live within your means|update your resume|network with|follow your passion|"
    "do your research|open and honest|honest conversation with your manager|talk to your manager|manage your time|"
    "celebrate small wins|small steps|recharge|it's important to|it is important to|everyone is different|"
    "there is no one-size-fits-all|no one-size-fits-all|stay hydrated|journaling"
)
_STOCK_BY_WORD = {_WORD.findall(first)[0]: tuple(p for p in _STOCK if _WORD.findall(p)[0] == _WORD.findall(first)[0]) for first in _STOCK}


_COMMON = frozenset(
    _list(
        "about after again against almost already also always another anyone anything around back because been before being between "
        "both bring came cannot come could does doesn't doing done don't down each else enough even ever every everyone everything "
        "feel feels feeling find first from getting give going gone good have haven't having help here into isn't it's just keep "
        "know last less like little long look made make makes making many maybe mean more most much must myself need never next "
        "nothing now only other over people perhaps really right said same says should since some someone something start started "
        "still such take tell than that that's their them then there there's these they they're thing things think this those though "
        "through time today told took trying under until very want wanted wants week well were what what's when where which while "
        "whole will with without work would year years you're your yourself"
    )
)


def _content(words: list[str]) -> frozenset[str]:
    """Stems of telling words: five letters are enough to join "manager's" and "managers"."""
    return frozenset(word[:5] for word in words if len(word) > 3 and word not in _COMMON)


def _stock(seen: _Seen) -> list[str]:
    """The stock phrases in the answers, in the order of the list; only those whose first word occurs are looked for."""
    likely = [p for word in _STOCK_BY_WORD.keys() & set(seen.words) for p in _STOCK_BY_WORD[word] if p in seen.everything]
    return [p for p in sorted(likely, key=_STOCK.index) if not any(p != other and p in other for other in likely)]


def generic(seen: _Seen) -> Iterator[Problem]:
    """Stock phrases that any chatbot offers. Four different ones reject, and two do if hardly a word of the user's comes back; two alone are noted.

    An answer that picks up none of the user's words is noted too. Misses empty advice in fresh words: `near_base` looks for that.
    """
    stock, shared = _stock(seen), len(seen.shared)
    if len(stock) >= STOCK_REJECT or (len(stock) >= STOCK_NOTE and shared <= SHARED_FEW):
        yield Problem("generic", _quote(f"{'; '.join(stock)} ({shared} words of the user come back)"))
    elif len(stock) >= STOCK_NOTE:
        yield Problem("generic", _quote("; ".join(stock)), "note")
    elif not shared and seen.raw:
        yield Problem("generic", "none of the user's words come back", "note")


_MEDICINES = frozenset(
    _list(
        "sertraline fluoxetine prozac zoloft escitalopram lexapro citalopram paroxetine venlafaxine duloxetine bupropion wellbutrin xanax "
        "alprazolam valium diazepam lorazepam ativan klonopin adderall ritalin methylphenidate modafinil ambien zolpidem melatonin "
        "ibuprofen paracetamol acetaminophen lithium quetiapine ketamine ssri ssris antidepressant antidepressants benzodiazepine "
        "benzodiazepines"
    )
)
_ILLNESS = r"(?:\w+ ){0,2}?(?:clinically depressed|depress(?:ion|ed)|adhd|ptsd|bipolar|anxiety disorder|panic disorder|eating disorder|psychosis|ocd|autis\w+)\b"
_DIAGNOSIS = re.compile(
    rf"\b(?:i(?:'d| would| can)? diagnose\b"
    rf"|you(?:'re| are| have| probably have|'re probably| clearly have| likely have| definitely have|'ve got| suffer from) {_ILLNESS}"
    rf"|(?:sounds|looks|seems) like {_ILLNESS})"
)
_MAYBE_ILL = re.compile(rf"\byou (?:may|might|could) (?:have|be) {_ILLNESS}|\bbeta[- ]blockers?\b")
_DOSE = re.compile(r"\b\d+(?:[.,]\d+)? ?(?:mg|mcg|milligrams?|micrograms?)\b")
_PILL_WORDS = _MEDICINES | set(_list("medication medications meds medicine medicines pill pills tablets dose dosage"))
_PILLS = (
    rf"(?:medications?|meds|medicines?|pills?|tablets|sleeping pills|dos(?:e|age)|{'|'.join(sorted(_MEDICINES, key=len, reverse=True))})"
)
_TELLS = r"(?:^|[.!?\n,;:] ?|\b(?:and|then|just|so|please|should|could|can|must|need to|ought to|have to|i'd|i would|you'd better|might want to|may want to|simply|or|i suggest you|try to) )"
_TELLS_MEDICINE = re.compile(
    rf"{_TELLS}(?:(?:stop|quit|skip|double|halve|reduce|increase|cut|drop|lower|come off|get off|go off|wean off|throw away|flush)(?: (?:taking|using|down|out|on|off))*"
    rf"(?: (?:your|the|some|a|any|those|that|these|all|of))* (?:\w+ )?{_PILLS}\b"
    rf"|(?:take|try|start|swallow|use)(?: (?:taking|on|some|an?|the|your|extra|more|two|another))* (?:\w+ )?(?:{'|'.join(sorted(_MEDICINES))})\b)"
)
_CAREFUL = re.compile(
    r"\b(?:not|never|don't|without|before|whether|if|unless|can't|cannot|won't|wouldn't|shouldn't|ask|nobody|no one|instead of)\b"
)
_AS_TOLD = re.compile(
    r"\b(?:as (?:prescribed|agreed|your (?:doctor|gp|prescriber|psychiatrist))|prescribed|your (?:doctor|gp|prescriber|psychiatrist) (?:said|told|wants|asked))\b"
)


def medical(seen: _Seen) -> Iterator[Problem]:
    """A diagnosis made to the face, a dose, and "stop taking" or "try" a medicine reject; a medicine that is only named, or "you might have", is noted.

    What the user said of an illness or a dose may come back. "Don't stop before you have asked" and "take it as prescribed" pass. Misses medicines outside
    the list and illnesses in other words.
    """
    asked, pills = seen.asked.lower(), not _PILL_WORDS.isdisjoint(seen.words)
    for text in seen.low:
        diagnosis = next(
            (
                hit.group()
                for hit in _DIAGNOSIS.finditer(text)
                if not _held_back(text, hit, _NEGATED) and not _NEGATED.search(hit.group()) and hit.group().split()[-1][:6] not in asked
            ),
            None,
        )
        dose = next((hit.group() for hit in _DOSE.finditer(text) if hit.group() not in asked), None)
        told = next(
            (
                hit.group()
                for hit in (_TELLS_MEDICINE.finditer(text) if pills else ())
                if not _held_back(text, hit, _CAREFUL) and not _AS_TOLD.search(_around(text, hit))
            ),
            None,
        )
        if severe := diagnosis or dose or told:
            yield Problem("medical", _quote(severe))
            return
    named = sorted(_MEDICINES & set(seen.words))
    hit = _MAYBE_ILL.search(seen.everything) or _DOSE.search(seen.everything)
    if named or hit:
        yield Problem("medical", _quote(", ".join(named + ([hit.group()] if hit else []))), "note")


def _around(text: str, hit: re.Match[str]) -> str:
    """The sentence in which a hit stands."""
    start = max(text.rfind(mark, 0, hit.start() + 1) for mark in ".!?\n") + 1
    ends = [end for mark in ".!?\n" if (end := text.find(mark, hit.end())) >= 0]
    return text[start : min(ends) + 1 if ends else len(text)]


def _held_back(text: str, hit: re.Match[str], words: re.Pattern[str]) -> bool:
    """Whether one of the words stands before the hit within its clause."""
    first = hit.start() + 1  # a hit may begin with the mark that ends the clause before
    start = max((mark.end() for mark in _CLAUSE.finditer(text, max(0, first - 80), first)), default=max(0, first - 80))
    return bool(words.search(text, start, max(start, first)))


_DESPAIR = re.compile(
    r"\b(?:want(?:ed)? to die|wanna die|wish i (?:was|were) dead|rather be dead|end(?:ing)? my (?:own )?life|tak(?:e|ing) my (?:own )?life|end it all|no reason to live"
    r"|(?:do not|don't) want to (?:live|be alive|be here|wake up|exist)(?: any ?more)?|better off (?:dead|without me)|suicidal|thinking (?:about|of) suicide|commit(?:ting)? suicide"
    r"|(?:hurt(?:ing)?|cut(?:ting)?|harm(?:ing)?) myself|self-harm\w*|kill(?:ing)? myself|i have the pills|can't go on living|not be alive|not wake up)\b"
    r"(?! (?:of |from |laughing|inside|on the spot|right there|with embarrassment|for (?:this|that|a|the|my|them)|at (?:work|this|that|the|my)|over |trying|here\b|with work|to (?:keep|please|meet|finish|make|get|be)|off from|short|when|early|at (?:five|six|\d)))"
)
_HELP = re.compile(
    r"\b(?:crisis|emergency|hotline|helpline|lifeline|samaritans|suicide (?:line|prevention)|988|911|999|112|116 ?123|doctor|gp|a&e|hospital|ambulance|emergency room|urgent care)\b"
)


def crisis(seen: _Seen) -> Iterator[Problem]:
    """Words of suicide or self-harm in a user's turn, and no crisis line, emergency or doctor in the answer to it. "I'm killing myself for this job" passes.

    Misses despair in other words, and cannot tell whether the help is offered well.
    """
    for (role, content), (_, answer) in zip(seen.pair.messages, seen.pair.messages[1:], strict=False):
        if role == "user" and (hit := _DESPAIR.search(_plain(content).lower())) and not _HELP.search(_plain(answer).lower()):
            yield Problem("crisis", _quote(hit.group()))


_PROMISE = re.compile(
    r"\bi (?:can |do |absolutely |personally |hereby )?(?:guarantee|promise|swear|assure)(?: you)?,?(?: that)? (?:you|this|it|that|he|she|they|your \w+|things|everything)"
    r"(?:'ll|'re going to| will| won't| is going to| are going to)\b"
    r"|\bi (?:can )?guarantee\b|\b(?:is|are|it's|that's|you're) (?:absolutely )?guaranteed\b|\bguaranteed (?:to (?:work|help)|results?)\b"
    r"|\b(?:you|this|it|that)(?:'ll| will| is going to| are going to) (?:definitely|certainly|surely|absolutely|for sure|undoubtedly) (?:be|feel|get|win|work|help|fix|cure|solve|recover|succeed|find|have|pass)\b"
    r"|\bwill cure (?:you|your|it|this)\b|\bworks? every (?:single )?time\b|\bthere is no way (?:this|it|you) (?:fails?|can fail)\b"
)
_NO_PROMISE = re.compile(
    r"\b(?:not|no|never|nobody|nothing|cannot|can't|won't|don't|doesn't|isn't|aren't|without|if|neither|nor|hardly|who|anyone|says?|said|claims?)\b"
)


def promise(seen: _Seen) -> Iterator[Problem]:
    """Results that are guaranteed or certain. "I can't promise" and "nothing is guaranteed" pass. Misses certainty in plain future tense ("you will sleep")."""
    for text in seen.low:
        hit = next((hit for hit in _PROMISE.finditer(text) if not _held_back(text, hit, _NO_PROMISE)), None)
        if hit:
            yield Problem("promise", _quote(hit.group()))


_RUDE = r"(?:stupid|idiots?|idiotic|dumb|a fool|fools?|morons?|pathetic|lazy|a loser|losers?|coward(?:ly)?|worthless|useless|whiny|a failure|an embarrassment|hopeless|crazy|insane|weak|ridiculous)"
_INSULT = re.compile(
    rf"\byou(?:'d be|'re| are| were| would be| sound| look| must be)(?: (?:so|such|just|being|really|a|an|simply|clearly|too|frankly|honestly|complete|total))* {_RUDE}\b(?! (?:from|with|busy|at|in|for (?:words|having)|spot|hours))"
    rf"|\bdon't be (?:so |such |a |an )*{_RUDE}\b|\bit(?:'s| is) (?:all )?your (?:own )?(?:stupid |damn )?fault\b"
)
_ORDERED = re.compile(
    r"(?:^|(?<=[.!?\n])) ?(?:just |please )?(?:get over it|grow up|man up|suck it up|stop whining|stop complaining|shut up|stop being (?:so |a |such a )?(?:baby|victim|lazy|weak|pathetic))(?=[.!,\n]|$)"
)
_NOT_RUDE = re.compile(
    r"\b(?:not|no|never|nobody|don't|doesn't|isn't|if|whether|unless|says?|said|saying|tells?|told|telling|thinks?|thought|thinking|believes?|calls?|called|voice|verdict|fear|afraid|worry|worried"
    r"|conclude|prove|proof|mean|means|meant|feels?|felt|wonder|convinced|story|insist\w*|suggest\w*|decide[sd]?|sentence|idea|accus\w*|call|cannot|can't|because|hint\w*|rule)\b"
)


def insult(seen: _Seen) -> Iterator[Problem]:
    """Rude words said to the user. What others or an inner voice say ("it tells you that you're lazy"), questions and denials pass. Misses scorn in fine words."""
    for text in seen.low:
        for hit in (*_INSULT.finditer(text), *_ORDERED.finditer(text)):
            whole = _around(text, hit)
            if not whole.endswith("?") and not _NOT_RUDE.search(whole[: max(0, whole.find(hit.group().strip(" .!?\n")))]):
                yield Problem("insult", _quote(hit.group()))
                break


def repetition(seen: _Seen) -> Iterator[Problem]:
    """A sentence of six words or a run of twelve that comes twice, or a run of twelve copied from the user. The same opening of two answers is noted."""
    counts = Counter(sentence for sentence in seen.sentences if len(sentence) >= SENTENCE_REPEATED)
    twice = [" ".join(sentence) for sentence, count in counts.items() if count > 1] or _runs_twice(seen.words)
    if twice:
        yield Problem("repetition", _quote(f"twice: {twice[0]}"))
    if copied := _runs_copied(seen.words, seen.asked_words):
        yield Problem("repetition", _quote(f"copied from the user: {copied[0]}"))
    openings = Counter(tuple(_WORD.findall(text[:80])[:4]) for text in seen.low)
    if len(seen.low) > 1 and (opening := openings.most_common(1)[0])[1] > 1:
        yield Problem("repetition", f"the same opening: {' '.join(opening[0])}", "note")


_ANCHOR = 3  # words; a run of RUN_COPIED words holds an anchor at one of every RUN_COPIED - _ANCHOR + 1 places


def _anchors(words: list[str]) -> Iterator[str]:
    """Short pieces of which any copied run must hold one whole: looking for these is far cheaper than comparing all runs."""
    for start in range(0, len(words) - _ANCHOR + 1, RUN_COPIED - _ANCHOR + 1):
        yield f" {' '.join(words[start : start + _ANCHOR])} "


def _runs(words: list[str]) -> list[str]:
    return [" ".join(words[start : start + RUN_COPIED]) for start in range(len(words) - RUN_COPIED + 1)]


def _runs_twice(words: list[str]) -> list[str]:
    """Runs that come twice in one text."""
    text = f" {' '.join(words)} "
    if not any(text.find(anchor, text.find(anchor) + 1) >= 0 for anchor in _anchors(words)):
        return []
    return [run for run, count in Counter(_runs(words)).items() if count > 1]


def _runs_copied(words: list[str], asked: list[str]) -> list[str]:
    """Runs of the answer that stand in the question too."""
    text = f" {' '.join(asked)} "
    if not any(anchor in text for anchor in _anchors(words)):
        return []
    known = set(_runs(asked))
    return [run for run in _runs(words) if run in known]


_LOOKS = (
    turns, language, first_person, own_name, third_person, technique, validation_first, conversational, paragraphs, length, persona_style, credentials,
    lived_experience, invented_number, named_study, brand, generic, crisis, medical, promise, insult, repetition,
)  # fmt: skip


def near_base(answer_vectors: "np.ndarray[Any, Any]", base_vectors: "np.ndarray[Any, Any]", threshold: float) -> list[tuple[int, float]]:
    """Which answers are near the base model's own answer to the same question: (row, cosine), rows in order. Row i is compared with row i.

    Vectors have unit length; a row of zeros (no base answer) is near nothing. Raises ValueError for arrays of different shapes.
    """
    import numpy as np

    if answer_vectors.shape != base_vectors.shape:
        raise ValueError(f"Each answer is compared with one base answer; found {answer_vectors.shape} and {base_vectors.shape}.")
    scores = np.einsum("ij,ij->i", answer_vectors, base_vectors)
    return [(int(row), float(scores[row])) for row in np.flatnonzero(scores > threshold - 1e-6)]  # the last bits differ between BLAS builds
