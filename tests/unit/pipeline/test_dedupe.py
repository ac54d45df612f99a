"""The kept set is the naive loop's, whatever the block; every drop names its neighbour; opposites survive the guard."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import dedupe
from pipeline.dedupe import Against, Near, contrast, cosine, exact, histogram, normalised, semantic
from pipeline.values import Drop

THRESHOLD, REVIEW = 0.8, 0.65


def made(seed, count, dimension=8, copies=0.4):
    """Unit vectors in few dimensions, so that many are near; some are exact copies and some are turned until they stand at about the threshold."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for place in range(1, count):
        other = vectors[random.integers(place)]
        if random.random() < copies / 2:
            vectors[place] = other
        elif random.random() < copies:
            across = vectors[place] - (vectors[place] @ other) * other
            vectors[place] = THRESHOLD * other + math.sqrt(1 - THRESHOLD**2) * across / np.linalg.norm(across)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def naive(items, vectors, threshold, review, guard):
    """The rules of the module, written as the two loops."""
    kept, drops, near, guarded = [], [], [], []
    for place, (name, text) in enumerate(items):
        scored = [(cosine(vectors[place], vectors[other]), other) for other in kept]
        scored.sort(key=lambda pair: -pair[0])
        above = [(score, other) for score, other in scored if score > threshold]
        same = [(score, other) for score, other in above if not (guard and contrast(text, items[other][1]))]
        if same:
            drops.append((name, items[same[0][1]][0], round(same[0][0], 6)))
            continue
        kept.append(place)
        if above:
            guarded.append((name, items[above[0][1]][0], round(above[0][0], 6)))
        elif scored and scored[0][0] >= review:
            near.append((name, items[scored[0][1]][0], round(scored[0][0], 6)))
    return [items[place][0] for place in kept], drops, near, guarded


def plain(found):
    return (
        list(found.kept),
        [(drop.item, drop.neighbour, drop.score) for drop in found.drops],
        [(near.item, near.neighbour, near.score) for near in found.review],
        [(near.item, near.neighbour, near.score) for near in found.guarded],
    )


def named(count, texts=("I work", "I don't work", "in the morning", "in the evening")):
    return [(f"i{n}", texts[n % len(texts)]) for n in range(count)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 60),
    dimension=st.sampled_from([3, 8, 384]),
    threshold=st.sampled_from([0.3, THRESHOLD, 1.0]),
    guard=st.booleans(),
    block=st.integers(1, 70),
    chunk=st.integers(1, 70),
)
def test_it_decides_as_the_naive_loop_whatever_the_block(seed, count, dimension, threshold, guard, block, chunk):
    items, vectors = named(count), made(seed, count, dimension)
    found = semantic(items, vectors, threshold, review=REVIEW, guard=guard, block=block, chunk=chunk)
    assert plain(found) == naive(items, vectors, threshold, REVIEW, guard)
    assert found == semantic(items, vectors, threshold, review=REVIEW, guard=guard)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60), cut=st.integers(0, 60), guard=st.booleans())
def test_a_second_round_against_what_was_kept_is_one_run_over_both(seed, count, cut, guard):
    items, vectors, cut = named(count), made(seed, count), min(cut, count)
    whole = semantic(items, vectors, THRESHOLD, review=REVIEW, guard=guard)
    first = semantic(items[:cut], vectors[:cut], THRESHOLD, review=REVIEW, guard=guard)
    places = [int(name[1:]) for name in first.kept]
    against = Against(first.kept, [items[place][1] for place in places], vectors[places])
    second = semantic(items[cut:], vectors[cut:], THRESHOLD, review=REVIEW, guard=guard, against=against, block=7, chunk=5)
    assert first.kept + second.kept == whole.kept
    assert first.drops + second.drops == whole.drops
    assert first.review + second.review == whole.review
    assert first.guarded + second.guarded == whole.guarded
    assert np.allclose(first.nearest + second.nearest, whole.nearest, atol=1e-6)


def test_more_than_one_real_block():
    random = np.random.default_rng(5)
    vectors = random.standard_normal((1300, 384), np.float32)
    vectors[::5][1:] = vectors[1::5][:-1] + 0.5 * random.standard_normal((259, 384), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept, matrix = [], np.empty_like(vectors)
    for place, vector in enumerate(vectors):
        if not (matrix[: len(kept)] @ vector > THRESHOLD).any():
            matrix[len(kept)] = vector
            kept.append(place)
    found = semantic([(str(n), "") for n in range(1300)], vectors, THRESHOLD, review=REVIEW, guard=False)
    assert found.kept == tuple(map(str, kept))
    assert len(found.drops) == 259
    assert all(drop.score > THRESHOLD and drop.neighbour in found.kept for drop in found.drops)


def test_equal_to_the_threshold_is_not_above_it():
    vectors = np.array([[1, 0], [0.6, 0.8], [1, 0]], np.float32)
    items = [("a", ""), ("b", ""), ("c", "")]
    edge = cosine(vectors[0], vectors[1])
    assert semantic(items, vectors, edge, review=2, guard=False).kept == ("a", "b")
    assert semantic(items, vectors, math.nextafter(edge, 0), review=2, guard=False).kept == ("a",)
    assert semantic(items, vectors, 1.0, review=2, guard=False).kept == ("a", "b", "c"), "no cosine is above 1"


def test_the_nearest_kept_item_is_named_not_the_first_that_matched():
    vectors = np.array([[1, 0, 0], [0.5, math.sqrt(0.75), 0], [0.85, math.sqrt(1 - 0.85**2), 0]], np.float32)
    found = semantic([("a", ""), ("b", ""), ("c", "")], vectors, 0.8, review=0.4, guard=False, step="research")
    scores = [cosine(vectors[place], vectors[2]) for place in range(2)]
    assert scores[1] > scores[0] > 0.8, "both match, the second better"
    assert found.drops == (Drop("c", "research", "near_duplicate", neighbour="b", score=round(scores[1], 6)),)
    assert found.review == (Near("b", "a", 0.5),)


def test_the_guard_still_drops_what_repeats_one_of_two_opposites():
    items = [("a", "I want to quit"), ("b", "I don't want to quit"), ("c", "I do want to quit")]
    vectors = np.array([[1, 0], [0.99, math.sqrt(1 - 0.99**2)], [0.995, math.sqrt(1 - 0.995**2)]], np.float32)
    found = semantic(items, vectors, 0.8, review=0.6, guard=True)
    assert found.kept == ("a", "b")
    assert [(drop.item, drop.neighbour) for drop in found.drops] == [("c", "a")], "b is nearer to c, but says the opposite"
    assert [(near.item, near.neighbour, near.detail) for near in found.guarded] == [("b", "a", "don't")]
    assert found.review == ()
    assert semantic(items, vectors, 0.8, review=0.6, guard=False).kept == ("a",)


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.ones((2, 4), np.float32), "unit length"),
        (np.array([[1, 0], [np.nan, 0]], np.float32), "unit length"),
        (np.zeros((2, 4), np.float32), "unit length"),
        (np.eye(3, dtype=np.float32), "2 items"),
        (np.array([1, 0], np.float32), "2 items"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(vectors, words):
    with pytest.raises(ValueError, match=words):
        semantic([("a", ""), ("b", "")], vectors, 0.8, review=0.6, guard=False)


def test_nothing_gives_nothing():
    found = semantic([], np.empty((0, 384), np.float32), 0.8, review=0.6, guard=True)
    assert found == dedupe.Deduped(())
    assert exact([]) == dedupe.Deduped(())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Hello,   World!", "hello world", True),
        ("I can\u2019t sleep.", "I cant sleep", True),
        ("\ufb01nancial \uff21dvice", "financial advice", True),
        ("zero\u200bwidth", "zerowidth", True),
        ("Stra\u00dfe", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("re-read \u2014 \u201cthis\u201d", "re read this", True),
        ("Save 10%", "Save 10", False),
        ("C++", "C#", False),
        ("5.5", "55", False),
        ("caf\u00e9", "cafe", False),
        ("???", "!!!", False),
        ("??? ", "???", True),
        ("\U0001f600", "\U0001f622", False),
    ],
)
def test_what_counts_as_the_same_text(one, other, same):
    assert (normalised(one) == normalised(other)) is same


@given(st.text(max_size=30))
def test_normalising_twice_is_normalising_once(text):
    assert normalised(normalised(text)) == normalised(text)


def test_exact_keeps_the_first_and_names_it():
    items = [("a", "Hello"), ("b", "hello!"), ("c", "other"), ("d", "HELLO"), ("e", "Earlier.")]
    found = exact(items, against=[("z", "earlier")])
    assert found.kept == ("a", "c")
    assert found.drops == tuple(
        Drop(item, "exact", "exact_duplicate", neighbour=neighbour, score=1.0) for item, neighbour in [("b", "a"), ("d", "a"), ("e", "z")]
    )


LONG = (
    "Nurses who could swap shifts among themselves were less tired after six months than those whose rota was fixed. The ward kept its staffing, and the head "
    "nurse approved every swap within a day. Sick leave fell in the first winter and stayed at that level."
)
REWORDED = (
    "Six months later, tiredness had gone down among the nurses who were free to trade shifts; it had not among colleagues with a fixed rota. Staffing on the "
    "ward remained as before, while each trade was agreed by the head nurse on the same day. In the first winter there was less sick leave, without a later rise."
)
OPPOSITES = [
    ("I want to quit my job", "I don't want to quit my job"),
    ("I want to quit my job", "I don\u2019t want to quit my job"),
    ("I want to quit my job", "I dont want to quit my job"),
    ("I want to quit my job", "I want to stay in my job"),
    ("What should my morning routine look like?", "What should my evening routine look like?"),
    ("How do I hire people?", "How do I fire people?"),
    ("How do I start hiring?", "How do I start firing?"),
    ("Should I work more?", "Should I work less?"),
    ("I am tired before work", "I am tired after work"),
    ("I saved too much", "I spent too much"),
    ("Should I accept it?", "Should I decline it?"),
    ("How do I start smoking?", "How do I stop smoking?"),
    ("My costs increased", "My costs decreased"),
    ("As an employee I feel alone", "As a manager I feel alone"),
    ("Can I live with him?", "Can I live without him?"),
    ("I always sleep", "I never sleep"),
    ("My mother calls", "My father calls"),
    ("I sleep", "I cannot sleep"),
    ("MORNING RUNS", "evening runs"),
    (f"{LONG} The course helped them.", f"{LONG} The course did not help them."),
    (f"I work nights. {LONG} I want to quit.", f"{LONG} I want to stay. I work nights."),
    ("I like my team. Should I leave it?", "I like my team. Should I stay with it?"),
    ("I am tired. My job is fine. I want to go.", "I am tired. My job is fine. I don't want to go. Help me."),
]
ALIKE = [
    ("How do I ask my boss for a raise?", "How should I ask my boss for a raise?"),
    ("I can't sleep at night", "I cannot sleep at night"),
    ("I want to quit my job", "I want to leave my job"),
    ("How do I stop overworking?", "How can I avoid overworking?"),
    ("I feel tired before and after work", "Before and after work I feel tired"),
    ("", ""),
    (LONG, f"{LONG} They did not change hours."),
    (f"They never changed hours. {LONG}", LONG),
    ("My rota changed again and I cried in the car park.", "My rota changed again and I cried in the car park. I cannot sleep."),
    ("My rota has changed again. I cried in the car.", "My rota changed again. I cannot sleep. I cried in the car."),
    ("My rota has changed. Is it me?", "My rota changed. Is it me? No idea. Nobody tells me anything."),
    (LONG, REWORDED),
]


@pytest.mark.parametrize(("one", "other"), OPPOSITES)
def test_the_guard_sees_opposites_from_both_sides(one, other):
    assert contrast(one, other) is not None
    assert contrast(other, one) is not None


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_the_guard_lets_paraphrases_go(one, other):
    assert contrast(one, other) is None
    assert contrast(other, one) is None


def test_no_word_stands_on_two_sides_of_one_contrast():
    torn = {word for word, places in dedupe._SIDES.items() if len({group for group, _ in places}) != len(places)}
    assert torn == set()


def test_the_histogram_counts_by_lower_edges():
    assert histogram([0.9, 0.92599, 0.95, 0.02, -0.01, 0.65]) == {"0.95": 1, "0.90": 2, "0.65": 1, "0.00": 1, "-0.05": 1}
    assert histogram([]) == {}
