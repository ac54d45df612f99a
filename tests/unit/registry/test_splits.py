"""The held-out split: no question and no source on both sides, for any data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.splits import MAX_SHARE, Member, SplitRule, heldout

ties = st.frozensets(st.sampled_from([f"t{i}" for i in range(12)]), max_size=3)
data = st.lists(ties, min_size=1, max_size=60).map(lambda rows: [Member(f"sha256:{i:064x}", row) for i, row in enumerate(rows)])


@given(data, st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.3, 0.5]))
def test_nothing_is_shared_across_the_split(members, seed, fraction):
    aside = heldout(members, SplitRule(fraction=fraction, seed=seed))
    train = set().union(*(m.ties for m, out in zip(members, aside, strict=True) if not out), set())
    held = set().union(*(m.ties for m, out in zip(members, aside, strict=True) if out), set())
    assert not train & held


@given(data, st.sampled_from([0.1, 0.3, 0.5]))
def test_most_of_the_data_stays_for_training(members, fraction):
    aside = heldout(members, SplitRule(fraction=fraction))
    assert sum(aside) <= max(round(fraction * len(members)), MAX_SHARE * len(members))


def test_the_split_depends_on_content_and_not_on_order():
    members = [Member(f"sha256:{i:064x}", frozenset({f"q{i}"})) for i in range(50)]
    forward = {m.digest for m, out in zip(members, heldout(members, SplitRule()), strict=True) if out}
    backward = {m.digest for m, out in zip(members[::-1], heldout(members[::-1], SplitRule()), strict=True) if out}
    assert forward == backward
    assert len(forward) == 5


def test_another_seed_draws_another_split():
    members = [Member(f"sha256:{i:064x}", frozenset({f"q{i}"})) for i in range(50)]
    assert heldout(members, SplitRule(seed=1)) != heldout(members, SplitRule(seed=2))


def test_one_group_that_ties_everything_holds_nothing_out():
    members = [Member(f"sha256:{i:064x}", frozenset({"same"})) for i in range(50)]
    assert not any(heldout(members, SplitRule()))


@pytest.mark.parametrize("identical", [2, 5])
def test_the_same_pair_twice_stays_on_one_side(identical):
    members = [Member("sha256:" + "0" * 64, frozenset({f"a{i}"})) for i in range(identical)] + [
        Member(f"sha256:{i:064x}", frozenset({f"q{i}"})) for i in range(1, 40)
    ]
    aside = heldout(members, SplitRule(fraction=0.2))
    assert len(set(aside[:identical])) == 1
