"""May a build promote what it made: every reason has its sentence, and no reason more ever allows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.policy import MARGIN, Allowed, Built, Candidate, Figure, Refused, may_be_promoted, may_be_served

SOUND = Candidate("elena@2", "ready", advisor_retired=False, file_problems=(), withdrawn_sources=())
BETTER = Figure(-0.2, 12, -0.3, -0.1)


def built(difference: Figure | None = BETTER, *, first: bool = True, candidate: Candidate = SOUND) -> Built:
    return Built(candidate, {"loss_difference": difference} if difference is not None else {}, is_first=first)


@pytest.mark.parametrize("first", [True, False])
def test_a_better_version_is_promoted(first):
    assert may_be_promoted(built(first=first)) == Allowed()


def test_a_later_version_need_not_be_better_but_must_not_be_worse():
    same = Figure(0.001, 12, -MARGIN, MARGIN)
    assert may_be_promoted(built(same, first=False)) == Allowed()
    assert may_be_promoted(built(same, first=True)) == Refused(
        (
            (
                "an advisor's first version must be better than the base on what was held out: its loss differs by +0.001 nats per token, "
                "95% interval -0.05 to +0.05, over 12 examples"
            ),
        )
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (built(None), "nothing was held out, so the gate cannot see whether it is better than the base"),
        (
            Built(SOUND, {"adapter_loss": BETTER}, is_first=False),
            "nothing was held out, so the gate cannot see whether it is better than the base",
        ),
        (built(Figure(-0.5, 1)), "only 1 example was held out, which gives no interval: the gate cannot tell chance from a difference"),
        (built(Figure(math.nan, 5, math.nan, math.nan)), "its held-out loss is no number"),
        (
            built(Figure(0.2, 9, 0.1, 0.3), first=False),
            "it is worse than the base on what was held out: its loss differs by +0.2 nats per token, 95% interval +0.1 to +0.3, over 9 examples",
        ),
        (
            built(Figure(0.0, 9, -0.2, 0.2), first=False),
            (
                "it may be worse than the base on what was held out by more than 0.05: its loss differs by +0 nats per token, "
                "95% interval -0.2 to +0.2, over 9 examples"
            ),
        ),
        (
            built(Figure(-0.1, 9, -0.2, 0.0)),
            (
                "an advisor's first version must be better than the base on what was held out: its loss differs by -0.1 nats per token, "
                "95% interval -0.2 to +0, over 9 examples"
            ),
        ),
    ],
)
def test_each_refusal_has_its_sentence(given, reason):
    assert may_be_promoted(given) == Refused((reason,))


def test_every_reason_is_given_at_once():
    unfit = Candidate("elena@2", "withdrawn", advisor_retired=True, file_problems=("x",), withdrawn_sources=("A",), blocked_sources=("B",))
    served = may_be_served(unfit)
    assert isinstance(served, Refused)
    assert may_be_promoted(built(None, candidate=unfit)) == Refused(
        (*served.reasons, "nothing was held out, so the gate cannot see whether it is better than the base")
    )
    assert may_be_promoted(built(candidate=unfit)) == served


NUMBERS = st.floats(-2, 2)
FIGURES = st.none() | st.builds(
    lambda values, n: Figure(values[1], n, values[0], values[2]), st.lists(NUMBERS, min_size=3, max_size=3).map(sorted), st.integers(1, 99)
)
TEXTS = st.lists(st.just("a fault"), max_size=1).map(tuple)
CANDIDATES = st.builds(Candidate, st.just("elena@2"), st.sampled_from(["ready", "withdrawn"]), st.booleans(), TEXTS, TEXTS, TEXTS)
BUILTS = st.builds(built, FIGURES, first=st.booleans(), candidate=CANDIDATES)


@given(BUILTS, CANDIDATES, st.floats(0, 2))
def test_a_reason_more_never_allows(given_, worse, shift):
    """Whatever was refused stays refused with another fault, as a first version, unmeasured, or with a higher loss."""
    if isinstance(may_be_promoted(given_), Allowed):
        return
    one, two = given_.candidate, worse
    both = Candidate(
        one.ref,
        one.state if one.state != "ready" else two.state,
        one.advisor_retired or two.advisor_retired,
        one.file_problems + two.file_problems,
        one.withdrawn_sources + two.withdrawn_sources,
        one.blocked_sources + two.blocked_sources,
    )
    figure = given_.heldout.get("loss_difference")
    higher = Figure(figure.value + shift, figure.n, (figure.low or 0) + shift, (figure.high or 0) + shift) if figure else None
    for harder in (
        Built(both, given_.heldout, given_.is_first),
        Built(one, given_.heldout, is_first=True),
        Built(one, {}, given_.is_first),
        built(higher, first=given_.is_first, candidate=one),
    ):
        assert isinstance(may_be_promoted(harder), Refused)


@given(BUILTS)
def test_what_may_be_promoted_may_be_served_and_was_measured(given_):
    decision = may_be_promoted(given_)
    if isinstance(decision, Refused):
        assert decision.reasons
        assert len(set(decision.reasons)) == len(decision.reasons)
        return
    assert may_be_served(given_.candidate) == Allowed()
    assert given_.heldout["loss_difference"].high <= (0 if given_.is_first else MARGIN)
