"""Finds what is said twice: exactly, by a normalised hash, and nearly, by the cosine of sentence vectors. Pure: values in, values out.

Rules of `semantic`: items come in order of preference and the first of its kind stays. An item is dropped when its cosine with an item that was kept
before it is above the threshold (equal is not above). This is the loop "for each new, for each kept, cosine > threshold", with the same kept set; only the
work is done by blocks of matrix products. A product in float32 may be wrong by MARGIN at most, so it only chooses the candidates: every decision and
every score that is reported comes from the candidate's own cosine in float64. So neither the size of a block nor the number of processors changes a
result.

The guard: high cosines do not tell opposites apart ("I want to quit my job" and "I don't want to quit my job" have 0.90). With the guard an item is kept, and
listed, where every kept item above the threshold differs from it by a negation or by a pair of contrasting words (the tables below) and by little else. A
sentence more ("I cannot sleep.") is no opposite, and neither is a paraphrase in many other words.

What it does not know: the guard reads English words one by one, not grammar. "Save before I invest" and "invest before I save" have the same words; a
contrast that is not in the table is not seen; and a paraphrase that trades one negation for a word outside the table ("I don't work" - "I am idle") is kept.
Keeping errs on the cheap side: what the guard kept is listed for a person to look at.
"""

import functools
import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.values import Drop

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]
Item = tuple[str, str]  # id, text

BLOCK, CHUNK = 1024, 2048  # rows of new items by rows of kept ones: 8 MB of products at a time; measured by scripts/bench_dedupe.py
# A dot product of k float32 terms is wrong by at most k * 2**-24 times the sum of the terms' sizes, which is at most 1 for unit vectors: 2.3e-5 for k = 384.
# The rest is for lengths that are not quite 1.
MARGIN = np.float32(3e-5)
LENGTH_TOLERANCE = 1e-6
NONE_YET = np.float32(-2)  # below every cosine
FEW_WORDS, FEW_SHARE = 6, 0.2  # the guard speaks only where at most so many words differ, or this share of the shorter text
SAME_SENTENCE = 0.3  # share of all words of two sentences that both have: below it, neither is a version of the other
MEANINGFUL_MARKS = "%#&@"  # Unicode calls them punctuation, but "10%" is not "10"


@dataclass(frozen=True)
class Near:
    """Two items that are alike; both were kept. `score` is their cosine to 6 places, `detail` the words by which the guard told them apart."""

    item: str
    neighbour: str
    score: float
    detail: str = ""


@dataclass(frozen=True)
class Deduped:
    """What stayed, in order, and what did not, each with the kept item it is most like.

    A kept item that is near an earlier one stands in `guarded` (the guard kept it) or in `review` (from `review` up to the threshold), never in both.
    `nearest` holds every item's highest cosine to an item kept before it, for `histogram`: straight from the products, so right to MARGIN and no part of
    the comparison of two results. The very first item has none.
    """

    kept: tuple[str, ...]
    drops: tuple[Drop, ...] = ()
    review: tuple[Near, ...] = ()
    guarded: tuple[Near, ...] = ()
    nearest: tuple[float, ...] = field(default=(), repr=False, compare=False)


class Against(NamedTuple):
    """Items that were kept earlier: the new ones are compared with them first. A plain tuple of the three does as well."""

    ids: Sequence[str]
    texts: Sequence[str]
    vectors: Floats


def normalised(text: str) -> str:
    """The text by which exact duplicates are found: NFKC, casefolded, without invisible characters and apostrophes, other punctuation and white space as one blank.

    Symbols stay ($, +, <, emoji, and % # & @). A text of punctuation alone stays as it is.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join("".join(map(_folded, folded)).split())
    return words or " ".join(folded.split())


@functools.lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf" or character in "'\u2019`":
        return ""
    blank = (category[0] == "P" and character not in MEANINGFUL_MARKS) or category[0] in "ZC"
    return " " if blank else character


def exact(items: Sequence[Item], *, against: Iterable[Item] = (), step: str = "exact") -> Deduped:
    """Keep the first item of each normalised text; items of `against` were kept earlier and are not returned."""
    first: dict[bytes, str] = {}
    for name, text in against:
        first.setdefault(_text_key(text), name)
    kept, drops = [], []
    for name, text in items:
        key = _text_key(text)
        if key in first:
            drops.append(Drop(item=name, step=step, reason="exact_duplicate", neighbour=first[key], score=1.0))
        else:
            first[key] = name
            kept.append(name)
    return Deduped(tuple(kept), tuple(drops))


def _text_key(text: str) -> bytes:
    return hashlib.sha256(normalised(text).encode("utf-8", "surrogatepass")).digest()


def semantic(
    items: Sequence[Item],
    vectors: Floats,
    threshold: float,
    *,
    review: float,
    guard: bool,
    against: Against | tuple[Sequence[str], Sequence[str], Floats] | None = None,
    step: str = "semantic",
    block: int = BLOCK,
    chunk: int = CHUNK,
) -> Deduped:
    """Keep the first item of each kind; `vectors` has one row of unit length per item, `threshold` and `review` are cosines.

    With `against` (items that an earlier call kept) the result for the new items is that of one call over both lists. Memory: the kept vectors and one
    product of `block` by `chunk`. Raises ValueError for vectors that do not fit the items or are not of unit length.
    """
    ids, texts, earlier = against or ((), (), np.empty((0, vectors.shape[-1]), np.float32))
    _check(len(items), vectors)
    _check(len(ids), earlier)
    run = Pass(list(zip(ids, texts, strict=True)), earlier, len(items), Rules(threshold, review, guard, step), (block, chunk))
    for start in range(0, len(items), block):
        run.add(items[start : start + block], np.ascontiguousarray(vectors[start : start + block], np.float32))
    return run.result()


def _check(count: int, vectors: Floats) -> None:
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"Expected one vector for each of {count} items, found an array of shape {vectors.shape}.")
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    if not np.all(np.abs(lengths - 1) <= LENGTH_TOLERANCE):
        raise ValueError("Expected vectors of unit length (within 1e-6); bring them to it before they are compared.")


def cosine(one: Floats, other: Floats) -> float:
    """The cosine in float64; exactly 1 for equal vectors."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.dot(a, b) / math.sqrt(np.dot(a, a) * np.dot(b, b)))


class Rules(NamedTuple):
    """What one pass decides by; `step` goes into the report."""

    threshold: float
    review: float
    guard: bool
    step: str

    @property
    def floor(self) -> np.float32:
        """Below this a product decides nothing."""
        return np.float32(min(self.threshold, self.review)) - MARGIN


class Pass:
    """One pass over the items, block by block. Places count kept items, earlier ones first."""

    def __init__(self, earlier: list[Item], vectors: Floats, count: int, rules: Rules, sizes: tuple[int, int]) -> None:
        self._rules, self._chunk = rules, sizes[1]
        self._items, self._first = earlier, len(earlier)
        # Room for all; the system hands out only what is written.
        self._vectors = np.empty((len(earlier) + count, vectors.shape[1]), np.float32)
        self._vectors[: len(earlier)] = vectors
        self._products = np.empty(sizes[0] * max(sizes), np.float32)
        self._later = np.triu(np.ones((sizes[0], sizes[0]), np.bool_))  # a row and those after it: no row is compared with them
        self._drops: list[Drop] = []
        self._review: list[Near] = []
        self._guarded: list[Near] = []
        self._nearest: list[float] = []

    @property
    def kept_vectors(self) -> Floats:
        """The vectors of all that was kept so far, earlier ones first; a view."""
        return self._vectors[: len(self._items)]

    def result(self) -> Deduped:
        """What was decided so far."""
        kept = tuple(name for name, _ in self._items[self._first :])
        return Deduped(kept, tuple(self._drops), tuple(self._review), tuple(self._guarded), tuple(self._nearest))

    def add(self, items: Sequence[Item], rows: Floats) -> None:
        """Decide one block: by all that was kept before it and, in order, by its own rows."""
        best, found = self._compare(rows)
        inner = self._product(rows, rows)
        np.copyto(inner, NONE_YET, where=self._later[: len(rows), : len(rows)])
        stays = np.ones(len(rows), np.bool_)
        for row in np.flatnonzero(np.maximum(best, inner.max(axis=1)) >= self._rules.floor).tolist():
            low = self._low(max(best[row], inner[row].max()))
            before = [place for places, scores in found.get(row, ()) for place in places[scores >= low].tolist()]
            near = [(self._items[place], self._vectors[place]) for place in before]
            near += [(items[place], rows[place]) for place in np.flatnonzero(inner[row] >= low).tolist()]
            stays[row] = self._decide(items[row], rows[row], near)
            if not stays[row]:
                inner[:, row] = NONE_YET
        nearest = np.maximum(best, inner.max(axis=1))
        self._nearest.extend(nearest[nearest > NONE_YET].tolist())
        start = len(self._items)
        self._items.extend(items[row] for row in np.flatnonzero(stays).tolist())
        self._vectors[start : len(self._items)] = rows[stays]

    def _compare(self, rows: Floats) -> tuple[Floats, dict[int, list[tuple[Places, Floats]]]]:
        """Each row's highest product with what is kept, and the places (with their products) that may turn out nearest or too near."""
        best = np.full(len(rows), NONE_YET, np.float32)
        found: dict[int, list[tuple[Places, Floats]]] = {}
        for start in range(0, len(self._items), self._chunk):
            products = self._product(rows, self._vectors[start : min(start + self._chunk, len(self._items))])
            highest = products.max(axis=1)
            np.maximum(best, highest, out=best)
            low = self._low(best)
            for row in np.flatnonzero((highest >= self._rules.floor) & (highest >= low)).tolist():
                places = np.flatnonzero(products[row] >= low[row])
                found.setdefault(row, []).append((places + start, products[row, places]))
        return best, found

    def _low(self, best: Any) -> Any:
        """The product from which on an item may be the nearest or, for the guard, which weighs every one, above the threshold."""
        nearest = best - 2 * MARGIN
        return np.minimum(nearest, np.float32(self._rules.threshold) - MARGIN) if self._rules.guard else nearest

    def _decide(self, item: Item, vector: Floats, near: Sequence[tuple[Item, Floats]]) -> bool:
        """Whether the item stays, with its line in the report where it is near something. The earliest of equally near items is named."""
        rules = self._rules
        scored = sorted(((cosine(vector, theirs), other) for other, theirs in near), key=lambda pair: -pair[0])
        above = [(score, other, contrast(item[1], other[1]) if rules.guard else None) for score, other in scored if score > rules.threshold]
        same = next(((score, other) for score, other, difference in above if difference is None), None)
        if same is not None:
            self._drops.append(Drop(item[0], rules.step, "near_duplicate", neighbour=same[1][0], score=round(same[0], 6)))
            return False
        if above:
            score, other, difference = above[0]
            self._guarded.append(Near(item[0], other[0], round(score, 6), difference or ""))
        elif scored and scored[0][0] >= rules.review:
            self._review.append(Near(item[0], scored[0][1][0], round(scored[0][0], 6)))
        return True

    def _product(self, rows: Floats, others: Floats) -> Floats:
        """Rows times others, in the one buffer of the run: fresh memory for each would cost a tenth more."""
        out = self._products[: len(rows) * len(others)].reshape(len(rows), len(others))
        return np.matmul(rows, others.T, out=out)


def histogram(scores: Iterable[float], *, width: float = 0.05) -> dict[str, int]:
    """How many of `Deduped.nearest` fall into each step of `width`, by the step's lower edge ("0.65"), highest first; empty steps are left out."""
    counts = Counter(math.floor(score / width + 1e-9) for score in scores)
    return {f"{step * width:.2f}": counts[step] for step in sorted(counts, reverse=True)}


# --- the guard: words that turn a sentence round ---

# Counted together: "I can't" and "I cannot" are alike, and so are "stop working" and "don't work". Leaving is counted too, so that "quit my job" and "leave my
# job" stay alike while "quit" and "don't quit" do not.
_NEGATORS = (
    "not no never none nobody nothing nowhere neither nor without cannot hardly barely rarely seldom unable "
    "aint arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt mustnt neednt shouldnt wasnt werent wont wouldnt"
)
_ENDINGS = "stop quit leave resign avoid refuse"
# Groups of words that exclude each other: "a | b" are two sides, words of one side mean alike. A group may have more sides than two.
_CONTRASTS = """
morning | afternoon | evening | night
monday | tuesday | wednesday | thursday | friday | saturday | sunday
weekday | weekend
before | after
early | mid | late
first | last
yesterday | today | tomorrow
past | future
old new | older newer
old elderly | young
quit leave resign | stay remain
stop end finish quit | start begin continue keep resume
hire recruit employ | fire dismiss sack
more | less fewer
most | least
increase raise grow gain | decrease reduce lower lose shrink cut
up | down
high | low
big large | small little
long | short
many | few
save | spend
buy | sell
borrow | lend
rent | own
debt | saving
earn income | expense cost
invest | divest withdraw
accept agree | decline reject refuse disagree
accept take | decline turn
approve | deny
allow permit | forbid ban
ask | tell answer
give | take receive
give lend | get
win | lose
succeed success | fail failure
love like enjoy | hate dislike
trust | distrust
happy glad | sad unhappy
calm | anxious
easy | hard difficult
strong strength | weak weakness
good better best | bad worse worst
right | wrong
true | false
rich | poor
safe | risky dangerous
full | part
fulltime | parttime
remote home | office onsite
public | private
internal | external
formal | informal
permanent | temporary
employee staff worker | manager boss employer supervisor
junior | senior
mentor | mentee
teacher | student
doctor | patient
client customer | supplier vendor
parent mother father mom dad mum | child kid son daughter
mother mom mum | father dad
son | daughter
brother | sister
husband | wife
boyfriend | girlfriend
man men male | woman women female
married | single divorced
introvert | extrovert
alone | together
open | close
push | pull
arrive | depart leave
enter join | exit leave
include | exclude
connect | disconnect
same | different
always | never
everyone everybody everything | nobody nothing
all | none
with | without
inside | outside
above | below
over | under
left | right
physical | mental emotional
"""
_IRREGULAR = {
    "quit": "quitted", "leave": "left leaving", "begin": "began begun", "keep": "kept", "spend": "spent", "buy": "bought", "sell": "sold",
    "lend": "lent", "give": "gave given", "take": "took taken", "get": "got gotten", "win": "won", "lose": "lost", "grow": "grew grown",
    "tell": "told", "forbid": "forbade forbidden", "child": "children", "wife": "wives", "cut": "", "lower": "", "right": "", "left": "",
}  # fmt: skip
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def _forms(word: str) -> set[str]:
    """The word with its regular endings and the irregular ones above. Some do not exist ("moreing"), which costs nothing."""
    stem = word.removesuffix("e")
    ended = {
        word,
        word + "s",
        word + "es",
        stem + "ed",
        stem + "ing",
        stem + word[-1] + "ed",
        stem + word[-1] + "ing",
        *_IRREGULAR.get(word, "").split(),
    }
    return ended | ({word[:-1] + "ies", word[:-1] + "ied"} if word.endswith("y") else set())


_TURNING = frozenset(_NEGATORS.split()) | frozenset(form for word in _ENDINGS.split() for form in _forms(word))


def _sides() -> dict[str, frozenset[tuple[int, int]]]:
    """For each word the (group, side) pairs it stands on."""
    found: dict[str, set[tuple[int, int]]] = {}
    for group, line in enumerate(_CONTRASTS.strip().splitlines()):
        for side, words in enumerate(line.split("|")):
            for form in {form for word in words.split() for form in _forms(word)}:
                found.setdefault(form, set()).add((group, side))
    return {word: frozenset(places) for word, places in found.items()}


_SIDES = _sides()


@functools.lru_cache(maxsize=65536)
def _words(text: str) -> tuple[str, ...]:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return tuple(_WORD.findall(folded))


def _turns(word: str) -> bool:
    return word in _TURNING or word.endswith("n't")


def contrast(one: str, other: str) -> str | None:
    """The words by which two English texts say opposite things, such as "don't" or "morning / evening"; None where the tables show no difference.

    Sentences are compared with their likest in the other text; one that only one text has says more, not the opposite, and is left aside. Nor is anything
    said about texts that differ in many words (`FEW_WORDS`, `FEW_SHARE`): in a long paraphrase some word always stands against another. Words that both
    sentences have are left aside too. What is left differs when one side has more negations, or when its words stand on different sides of a contrast.
    """
    left = [(Counter(a) - Counter(b), Counter(b) - Counter(a)) for a, b in _matched(one, other)]
    differing = sum(words.total() for pair in left for words in pair)
    if differing > max(FEW_WORDS, FEW_SHARE * min(len(_words(one)), len(_words(other)))):
        return None
    return next(filter(None, (_turned(mine, theirs) for mine, theirs in left)), None)


def _turned(mine: Counter[str], theirs: Counter[str]) -> str | None:
    turning = [[word for word in words.elements() if _turns(word)] for words in (mine, theirs)]
    if len(turning[0]) != len(turning[1]):
        return " / ".join(" ".join(sorted(words)) for words in turning if words)
    pairs = ((a, b) for a in sorted(mine) if a in _SIDES for b in sorted(theirs) if b in _SIDES)
    return next((f"{a} / {b}" for a, b in pairs if _opposed(_SIDES[a], _SIDES[b])), None)


@functools.lru_cache(maxsize=16384)
def _sentences(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(filter(None, map(_words, _SENTENCE_END.split(text))))


def _matched(one: str, other: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Sentences that differ, each with its likest of the other text. Where one on each side is left, they are a pair however little they share."""
    mine, theirs = Counter(_sentences(one)), Counter(_sentences(other))
    left, right = list((mine - theirs).elements()), list((theirs - mine).elements())
    if len(left) == len(right) == 1:
        return [(left[0], right[0])]
    sets = [[frozenset(words) for words in side] for side in (left, right)]
    shares = ((len(a & b) / len(a | b), i, j) for i, a in enumerate(sets[0]) for j, b in enumerate(sets[1]))
    ranked = sorted(
        ((share, i, j) for share, i, j in shares if share >= SAME_SENTENCE),
        key=lambda hit: (-hit[0], sorted((left[hit[1]], right[hit[2]]))),
    )
    pairs, used = [], (set[int](), set[int]())
    for _, i, j in ranked:
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append((left[i], right[j]))
    return pairs


def _opposed(one: frozenset[tuple[int, int]], other: frozenset[tuple[int, int]]) -> bool:
    return any(group == theirs and side != its for group, side in one for theirs, its in other)
