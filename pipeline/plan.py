"""The plan of a set: how many pairs of each category, and for each pair a person, a scenario, a technique and a voice. Decided before anything is written.

Rules: shares become numbers by largest remainder; the cells of a run differ in (category, persona, scenario, technique); categories are spread evenly along
the plan, so that any stretch of it, and so any batch and any run that stopped early, has about the asked composition; the same order gives the same plan on
every machine. Models no longer take a temperature, so variety has to come from here. Pure but for reading its own tables in plans/.

Which tables describe the user's troubles is read from the words of the domain, never from the advisor's name; a domain without a table gets its own
expertise areas crossed with situations that every subject knows. It does not know whether a combination is likely in life: a persona is drawn from tables,
and the writer may smooth what does not fit.
"""

import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.config import PipelineConfig
from pipeline.values import CATEGORIES, AdvisorDomain, Cell, Pair
from registry.errors import Invalid

TABLES = Path(__file__).with_name("plans")
DOMAIN_TABLES = ("burnout", "career", "finance")  # the first wins a tie
MAX_AREA = 80  # characters of an expertise area that enter a scenario: it came from a prompt, and a scenario is a phrase
TOP_UP_SHARES = 4  # half of all people are for the first plan, and an eighth for each of four top-up rounds; a fifth round starts again
TRIES = 200  # draws of another person before a repeated combination is accepted; below 20,000 cells it never comes to that
BETWEEN_JOBS = "out of work, until then "  # stands before the job of a person whose trouble is that they have lost it
T = TypeVar("T")
DIMENSIONS = ("category", "technique", "voice", "turns")


@dataclass(frozen=True)
class Achieved:
    """One line of the composition: `target` cells were planned, `achieved` pairs were accepted (more than the target after a generous top-up)."""

    dimension: str
    name: str
    target: int
    achieved: int


def quotas(n: int, composition: Mapping[str, float]) -> dict[str, int]:
    """How many of `n` pairs each category gets, by largest remainder (Hamilton); of equal remainders the earlier category wins. Sums to `n`.

    Raises Invalid for an unknown category, a negative share or shares that are all zero. Shares are taken relative to their sum. As with every
    largest-remainder rule, a larger `n` may in rare cases give a category one pair less.
    """
    _check_composition(composition)
    return largest_remainder(n, {category: composition[category] for category in CATEGORIES if category in composition})


def largest_remainder(n: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole parts of `n` in proportion to `shares`, which need not sum to 1; of equal remainders the earlier name wins. Sums to `n`."""
    share = {name: Fraction(value).limit_denominator(10**6) for name, value in shares.items()}  # 0.3 is meant, not its binary neighbour
    total = sum(share.values())
    exact = {name: n * value / total for name, value in share.items()}
    counts = {name: int(value) for name, value in exact.items()}
    left = n - sum(counts.values())
    for name in sorted(counts, key=lambda c: counts[c] - exact[c])[:left]:  # sorted is stable: ties stay in the given order
        counts[name] += 1
    return counts


def _check_composition(composition: Mapping[str, float]) -> None:
    for category, share in composition.items():
        if category not in CATEGORIES:
            raise Invalid(f"The composition has no category {category[:40]!a}.", hint=f"Known: {', '.join(CATEGORIES)}.")
        if not 0 <= share <= 1:
            raise Invalid(f"The share of {category} must be 0 to 1; found {share:g}.")
    if not sum(composition.values()) > 0:
        raise Invalid("The composition gives every category nothing; at least one share must be above 0.")


def make_cells(config: PipelineConfig, domain: AdvisorDomain) -> tuple[Cell, ...]:
    """The plan: `config.examples` cells, c0001 and on, categories spread evenly. Raises what `quotas` raises."""
    wanted = quotas(config.examples, config.composition)
    width = max(4, len(str(config.examples)))  # ids sort as text
    return _cells(config, domain, wanted, 0, (f"c{number:0{width}d}" for number in itertools.count(1)))


def top_up(
    config: PipelineConfig,
    domain: AdvisorDomain,
    missing: Mapping[str, int],
    round: int,  # noqa: A002  # the word that ids and reports use
    taken: Collection[str],
) -> tuple[Cell, ...]:
    """New cells for what is missing per category, r1c0001 and on, none with an id in `taken`; other people than in the plan and in earlier rounds.

    Raises ValueError for a round below 1 or an unknown category, which only a mistake in the caller can cause.
    """
    if round < 1 or not set(missing) <= set(CATEGORIES):
        raise ValueError(f"A top-up needs a round from 1 and known categories; found round {round} and {sorted(missing)}.")
    wanted = {category: max(0, missing.get(category, 0)) for category in CATEGORIES}
    numbered = (f"r{round}c{number:04d}" for number in itertools.count(1))
    taken = frozenset(taken)
    return _cells(config, domain, wanted, round, (cell_id for cell_id in numbered if cell_id not in taken))


def batches(cells: Sequence[Cell], size: int) -> tuple[tuple[Cell, ...], ...]:
    """Consecutive slices of at most `size` cells. Batches are mixed: the plan is spread evenly, so each takes about as long to write, and losing one
    batch takes a little of everything. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"A batch holds at least one cell; found size {size}.")
    return tuple(tuple(cells[start : start + size]) for start in range(0, len(cells), size))


def missing(cells: Iterable[Cell], accepted: Iterable[Pair]) -> dict[str, int]:
    """How many pairs each category still lacks: what `top_up` takes. Categories that lack none are left out."""
    return {row.name: row.target - row.achieved for row in achieved(cells, accepted) if row.achieved < row.target}


def achieved(cells: Iterable[Cell], accepted: Iterable[Pair], dimension: str = "category") -> tuple[Achieved, ...]:
    """Planned against accepted, a row for each value of a dimension (category, technique, voice or turns), categories in their own order.

    Targets count the first plan only: a cell of a top-up round replaces one that failed. A pair counts for what its cell asked for; a pair without a known
    cell counts by its own category and technique. Raises ValueError for an unknown dimension.
    """
    if dimension not in DIMENSIONS:
        raise ValueError(f"The composition is counted by {', '.join(DIMENSIONS)}; found {dimension!a}.")
    by_id = {cell.id: cell for cell in cells}
    target = Counter(_value(cell, dimension) for cell in by_id.values() if not cell.id.startswith("r"))
    done = Counter(_value(by_id.get(pair.cell, pair), dimension) for pair in accepted)
    names = [name for name in CATEGORIES if name in target or name in done] if dimension == "category" else []
    names += sorted((target.keys() | done.keys()) - set(names))
    return tuple(Achieved(dimension, name, target[name], done[name]) for name in names)


def _value(item: Cell | Pair, dimension: str) -> str:
    if dimension == "voice":
        return getattr(item, "voice", "not planned").partition(":")[0]
    if dimension == "turns":
        return str(item.turns if isinstance(item, Cell) else len(item.messages) // 2)
    return str(getattr(item, dimension))


def techniques() -> dict[str, str]:
    """The coaching techniques a cell may ask for, and what each means to a writer."""
    return dict(_table("craft")["techniques"])


def domain_table(domain: AdvisorDomain) -> str | None:
    """The table of scenarios that fits the domain, or None for a domain that brings only its own expertise areas.

    A word of the primary domain decides; without one there, words in at least half of the expertise areas do. A word that also has other meanings
    ("fatigue", "saving") counts only alone or beside one of its companions, so that metal fatigue and saving relationships bring their own areas.
    """
    for phrases, needed in (((domain.primary_domain,), 1), (domain.expertise_areas, max(1, (len(domain.expertise_areas) + 1) // 2))):
        hits = {name: sum(_about(phrase, _table(name)) for phrase in phrases) for name in DOMAIN_TABLES}
        best = max(DOMAIN_TABLES, key=lambda name: hits[name])
        if hits[best] >= needed:
            return best
    return None


def _about(phrase: str, table: Mapping[str, Any]) -> bool:
    words = _words(phrase)
    return bool(words & set(table["words"])) or any(
        word in words and (words == {word} or bool(words & set(beside))) for word, beside in table["words beside others"].items()
    )


def _words(phrase: str) -> set[str]:
    return set(re.findall(r"[a-z]+(?:-[a-z]+)*", phrase.lower())) | set(re.findall(r"[a-z]+", phrase.lower()))


@cache
def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((TABLES / f"{name}.json").read_text(encoding="utf-8"))
    return table


class _Deal(Generic[T]):
    """Draws without end from groups: every round visits each group once in a new order, and a group repeats nothing before all of it was drawn."""

    def __init__(self, groups: Sequence[Sequence[T]], rng: random.Random) -> None:
        self._groups = [rng.sample(group, len(group)) for group in groups]
        self._at = [0] * len(self._groups)
        self._rng, self._order = rng, list[int]()

    def next(self) -> T:
        if not self._order:
            self._order = list(range(len(self._groups)))
            self._rng.shuffle(self._order)
        group = self._order.pop()
        items, at = self._groups[group], self._at[group]
        self._at[group] = (at + 1) % len(items)
        return items[at]


def _cells(config: PipelineConfig, domain: AdvisorDomain, wanted: Mapping[str, int], part: int, ids: Iterator[str]) -> tuple[Cell, ...]:
    persons = _Deal(_people(config.seed, part), _random("persons", config.seed, part))
    kinds, table = _scenarios(domain)
    drawn = {category: _draw(category, persons, kinds, table, _random(category, config.seed, part)) for category in wanted}
    return tuple(_cell(next(ids), category, next(drawn[category]), config.seed) for category in _spread(wanted))


def _random(*words: object) -> random.Random:
    """Seeded by words: the same draws on every machine, whatever PYTHONHASHSEED is."""
    return random.Random(":".join(["plan/1", *map(str, words)]))  # noqa: S311  # nothing secret hangs on it


def _cell(cell_id: str, category: str, fields: dict[str, Any], seed: int) -> Cell:
    digest = hashlib.sha256(f"cell/1:{seed}:{cell_id}".encode()).digest()
    return Cell(id=cell_id, category=category, seed=int.from_bytes(digest[:4], "big") >> 1, **fields)


def _spread(wanted: Mapping[str, int]) -> list[str]:
    """Every category as often as wanted, each evenly along the whole."""
    places = [((2 * k + 1) / (2 * count), order, category) for order, (category, count) in enumerate(wanted.items()) for k in range(count)]
    return [category for _, _, category in sorted(places)]


def _draw(
    category: str, persons: _Deal[str], kinds: Mapping[str, Sequence[str]], table: Mapping[str, Any], rng: random.Random
) -> Iterator[dict[str, Any]]:
    """The cells of one category without end. People come from a deal that all categories share, so that a small run has many kinds of them too."""
    craft, moments = _table("craft"), _Deal([_table("generic")["moments"]], rng)
    troubles = _Deal([[(kind, situation) for situation in situations] for kind, situations in kinds.items()], rng)
    technique = _Deal([[name] for name in craft["techniques"]], rng)
    voice = _Deal([[f"{name}: {way}" for way in ways] for name, ways in craft["voices"].items()], rng)
    endings, seen = _endings(category, craft, rng), set[tuple[str, str, str]]()
    while True:
        kind, situation = troubles.next()
        trouble, means = f"{kind}: {situation} ({moments.next()})", technique.next()
        needs, place = table.get("needs", {}), f"{kind}: {situation}"
        fitting = _fitting((*needs.get(kind, ()), *needs.get(place, ())))
        before = BETWEEN_JOBS if place in table.get("between jobs", ()) else ""
        for _ in range(TRIES):
            found = persons.next()
            person = before + found
            if fitting(found) and (person, trouble, means) not in seen:
                break
        seen.add((person, trouble, means))
        turns, ending = endings.next()
        yield {"persona": person, "scenario": trouble + ending, "technique": means, "voice": voice.next(), "turns": turns}


@cache
def _fitting(needs: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a person may have this trouble: parents have children, a couple is two, and nobody in their twenties is five years from a pension."""
    rules = [_table("people")["needs"][need] for need in needs]
    wanted = [_any_of(rule["one of"]) for rule in rules if "one of" in rule]
    barred = [_any_of(rule["none of"]) for rule in rules if "none of" in rule]
    return lambda person: all(rule.search(person) for rule in wanted) and not any(rule.search(person) for rule in barred)


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, phrases)))


def _endings(category: str, craft: Mapping[str, Any], rng: random.Random) -> _Deal[tuple[int, str]]:
    """(turns of the user, words added to the scenario) for the categories that need more than one plain question."""
    if category == "multi_turn":
        moves = [f"the user {what} ({name})" for name, what in craft["moves"].items()]
        twos = [(2, f". Turn 2: {move}") for move in moves]
        threes = [(3, f". Turn 2: {first}. Turn 3: {second}") for first, second in itertools.permutations(moves, 2)]
        return _Deal([twos, threes], rng)
    if category == "document_analysis":
        documents = craft["documents"].items()
        return _Deal(
            [[(1, f". The user hands over {name}, long and in full, and asks {aim}") for aim in aims] for name, aims in documents], rng
        )
    return _Deal([[(1, "")]], rng)


def _people(seed: int, part: int) -> list[list[str]]:
    """The people of the plan (part 0) or of a top-up round, grouped by industry and career stage. No two of the first five parts share a person."""
    rng = _random("people", seed)  # the same shuffle for every part, so that their shares do not overlap
    groups = []
    for group in _everybody():
        mixed = rng.sample(group, len(group))
        half = len(mixed) // 2
        groups.append(mixed[:half] if part == 0 else mixed[half + (part - 1) % TOP_UP_SHARES :: TOP_UP_SHARES])
    return groups


@cache
def _everybody() -> tuple[tuple[str, ...], ...]:
    table = _table("people")
    return tuple(
        tuple(
            f"{job} ({industry}, {stage}), {age}; {life}; {situation}"
            for job in jobs
            for age in table["stages"][stage]
            for life in table["ages"][age]
            for situation in table["situations"]
        )
        for industry, by_stage in table["jobs"].items()
        for stage, jobs in by_stage.items()
    )


def _scenarios(domain: AdvisorDomain) -> tuple[dict[str, Sequence[str]], dict[str, Any]]:
    """Situations by kind: those of the domain's table, if it has one, and each expertise area in the situations that every subject knows; with that
    table: it says what a kind, or one situation, needs of a person. A prompt that lists a hundred areas does not drown the table: at most as many areas as the table has kinds are taken.
    """
    situations, name = _table("generic")["situations"], domain_table(domain)
    table = _table(name) if name else {"scenarios": {}}
    own = dict.fromkeys(filter(None, (" ".join(area.split())[:MAX_AREA] for area in domain.expertise_areas or (domain.primary_domain,))))
    most = len(table["scenarios"]) or len(own)
    return {**dict.fromkeys(list(own)[:most] or ["their question"], situations), **table["scenarios"]}, table
