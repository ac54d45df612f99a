"""Who is live: promotion, rollback, undo, compare-and-swap, dry run, and the history that tells it; on both databases."""

import threading

import pytest
import sqlalchemy as sa
from factories import ACTOR, add_advisor, add_dataset, add_version, damage, line, tampering

from registry import advisors, events, promotion, sources, versions
from registry.errors import Conflict, Invalid, NotFound, NotPromotable, Stale
from registry.models import Alias, Event
from registry.policy import Allowed, Candidate, Refused, may_be_served
from registry.promotion import Expected, moment_of

PAGE = "https://example.org/page"


@pytest.fixture
def three(db, store):
    """Elena with versions 1, 2 and 3, none of them live."""
    add_advisor(db)
    add_dataset(db, [line("Q", sources=[PAGE])])
    for seed in (1, 2, 3):
        add_version(db, store, seed=seed)
    return Acts(db, store)


class Acts:
    """The verbs, each in its own transaction."""

    def __init__(self, db, store):
        self.db, self.store = db, store

    def promote(self, number, **more):
        with self.db.transaction() as session:
            version = versions.resolve(session, f"elena@{number}")
            advisors.get_active(session, "elena", lock=True)
            return promotion.promote(session, self.store, version, actor=ACTOR, **more)

    def rollback(self, **more):
        with self.db.transaction() as session:
            return promotion.rollback(
                session, self.store, advisors.get(session, "elena", lock=True), actor=ACTOR, **({"reason": "worse"} | more)
            )

    def undo(self, **more):
        with self.db.transaction() as session:
            return promotion.undo(session, self.store, advisors.get(session, "elena", lock=True), actor=ACTOR, **more)

    def clear(self):
        with self.db.transaction() as session:
            return promotion.clear(session, advisors.get(session, "elena", lock=True), actor=ACTOR, reason="down")

    def withdraw(self, number):
        with self.db.transaction() as session:
            versions.withdraw(session, versions.resolve(session, f"elena@{number}"), actor=ACTOR, reason="bad")

    def live(self):
        with self.db.read() as session:
            try:
                return versions.resolve(session, "elena@live").number
            except NotFound:
                return None

    def told(self):
        with self.db.read() as session:
            return [
                (e.tag, events.body_of(e)["from"], events.body_of(e)["to"])
                for e in promotion.history(session, advisors.get(session, "elena"), "live")
            ]


def test_rollback_goes_back_step_by_step(three):
    for number in (1, 2, 3):
        three.promote(number)
    assert (three.rollback().after, three.live()) == (2, 2)
    assert (three.rollback().after, three.live()) == (1, 1)
    with pytest.raises(Conflict, match="No earlier version"):
        three.rollback()
    assert three.told() == [
        ("alias:promoted", None, 1),
        ("alias:promoted", 1, 2),
        ("alias:promoted", 2, 3),
        ("alias:rolled_back", 3, 2),
        ("alias:rolled_back", 2, 1),
    ]


def test_rollback_skips_withdrawn_versions(three):
    for number in (1, 2, 3):
        three.promote(number)
    three.withdraw(2)
    assert three.rollback().after == 1


def test_rollback_to_a_number_that_was_live(three):
    for number in (1, 2, 3):
        three.promote(number)
    assert three.rollback(to=1).after == 1
    assert three.promote(3).after == 3
    assert three.rollback().after == 1


def test_rollback_is_no_way_around_promotion(three):
    three.promote(1)
    with pytest.raises(Conflict, match="was never live"):
        three.rollback(to=2)
    with pytest.raises(Conflict, match="is live already"):
        three.rollback(to=1)
    with pytest.raises(Invalid, match="needs a reason"):
        three.rollback(to=1, reason=" ")


def test_undo_takes_back_the_last_move_whatever_it_was(three):
    three.promote(1)
    three.promote(2)
    assert three.undo().after == 1
    assert three.undo().after == 2
    three.rollback()
    assert (three.undo().after, three.live()) == (2, 2)
    assert three.rollback().after == 1


def test_undo_of_the_first_promotion_leaves_nothing_live(three):
    with pytest.raises(Conflict, match="never moved"):
        three.undo()
    three.promote(1)
    assert (three.undo().after, three.live()) == (None, None)
    assert three.promote(2).before is None


def test_a_cleared_alias_points_to_nothing_and_can_come_back(three):
    three.promote(1)
    three.clear()
    assert three.live() is None
    with pytest.raises(Conflict, match="points to nothing already"):
        three.clear()
    assert three.rollback().after == 1


def test_promoting_what_is_live_writes_no_event(three):
    three.promote(1)
    assert three.promote(1).done is False
    assert len(three.told()) == 1


def test_a_dry_run_changes_nothing_and_tells_what_would_happen(three):
    three.promote(1)
    three.promote(2)
    for move in (three.rollback(dry_run=True), three.undo(dry_run=True), three.promote(3, dry_run=True)):
        assert move.done is False
    assert (three.live(), len(three.told())) == (2, 2)


def test_compare_and_swap_by_version_and_by_generation(three):
    assert three.promote(1, expected=Expected(version=0)).generation == 1
    with pytest.raises(Stale, match="expected nothing, found elena@1"):
        three.promote(2, expected=Expected(version=0))
    with pytest.raises(Stale, match="expected generation 7, found 1"):
        three.promote(2, expected=Expected(generation=7))
    assert three.promote(2, expected=Expected(version=1, generation=1)).generation == 2


def test_two_promotions_at_once_that_expect_the_same_end_with_one(three):
    three.promote(1)
    results = []
    barrier = threading.Barrier(2)

    def act(number):
        barrier.wait()
        try:
            results.append(three.promote(number, expected=Expected(version=1)).after)
        except Stale:
            results.append("stale")

    threads = [threading.Thread(target=act, args=(n,)) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) in (["2", "stale"], ["3", "stale"])


def test_a_version_whose_file_is_damaged_is_not_served(three):
    with three.db.read() as session:
        digest = versions.resolve(session, "elena@1").files[0].sha256
    damage(three.store, digest)
    with pytest.raises(NotPromotable, match=r"adapter_config\.json") as caught:
        three.promote(1)
    assert len(caught.value.reasons) == 1
    assert three.told() == []


def test_a_withdrawn_source_stops_its_versions(three):
    add_dataset(three.db, [line("Other", sources=["https://example.org/good"])])
    add_version(three.db, three.store, seed=9)
    three.promote(4)
    three.promote(1)
    with three.db.transaction() as session:
        sources.withdraw(session, sources.get(session, PAGE), actor=ACTOR, reason="retracted")
    with pytest.raises(NotPromotable, match="withdrawn source"):
        three.promote(2)
    assert three.rollback().after == 4
    with pytest.raises(NotPromotable, match="withdrawn source"):
        three.rollback(to=1)


def test_a_version_under_an_alias_cannot_be_withdrawn(three):
    three.promote(1)
    with pytest.raises(Conflict, match="elena@1 is live"):
        three.withdraw(1)


def test_aliases_do_not_disturb_each_other(three):
    three.promote(1)
    three.promote(2, alias="candidate")
    three.promote(3, alias="candidate")
    assert three.rollback(alias="candidate").after == 2
    assert three.live() == 1


def test_who_was_live_then(three):
    three.promote(1)
    with three.db.read() as session:
        first = session.scalars(sa.select(Event).where(Event.tag == "alias:promoted")).one().at
    three.promote(2)
    with three.db.read() as session:
        elena = advisors.get(session, "elena")
        assert promotion.resolve_at(session, elena, "live", first).number == 1
        assert promotion.resolve_at(session, elena, "live", events.now()).number == 2
        with pytest.raises(NotFound, match="had no version"):
            promotion.resolve_at(session, elena, "live", moment_of("2020-01-01")[0])


def test_a_bare_date_means_the_end_of_that_day_and_says_so():
    moment, words = moment_of("2026-03-03")
    assert moment.isoformat() == "2026-03-03T23:59:59.999999+00:00"
    assert words == "the end of 2026-03-03 (UTC)"
    assert moment_of("2026-03-03T10:00:00+02:00")[0].isoformat() == "2026-03-03T08:00:00+00:00"
    for bad in ("yesterday", "2026-02-30", "", "2026-03-03T99:00"):
        with pytest.raises(Invalid, match="Expected a date"):
            moment_of(bad)


def test_a_move_that_fails_leaves_neither_alias_nor_event(three):
    with pytest.raises(RuntimeError), three.db.transaction() as session:
        version = versions.resolve(session, "elena@1")
        promotion.promote(session, three.store, version, actor=ACTOR)
        raise RuntimeError("the process dies here")
    with three.db.read() as session:
        assert session.scalars(sa.select(Alias)).all() == []
        assert events.audit(session) == []
    assert three.told() == []


def test_a_durable_job_moves_an_alias_once_however_often_it_comes_again(three):
    first = three.promote(2, job="build-elena-1")
    three.promote(3)
    late = three.promote(2, job="build-elena-1")  # a worker that slept meanwhile: what people did since stands
    assert (first.done, late.done, late.after, late.generation) == (True, False, 2, first.generation)
    assert three.live() == 3
    assert three.promote(2, job="build-elena-2").done is True
    assert three.live() == 2


class Slow:
    """A store during whose reading another writer commits: it would wait for ever if the move held its lock."""

    def __init__(self, three):
        self.three, self.read = three, []

    def verify(self, digest):
        self.read.append(digest)
        assert self.three.db.engine.pool.checkedout() == 0  # nor does a read of the catalogue stay open meanwhile
        with self.three.db.transaction() as session:
            advisors.get(session, "elena", lock=True)
            events.append(session, "test:wrote", ACTOR, {"digest": digest})
        return self.three.store.verify(digest)


def test_nobody_waits_while_the_files_of_a_move_are_read_and_each_is_read_once(three):
    slow = Slow(three)

    def act(session, store, dry_run):
        advisors.get_active(session, "elena", lock=not dry_run)
        return promotion.promote(session, store, versions.resolve(session, "elena@2"), actor=ACTOR, dry_run=dry_run)

    assert promotion.move(three.db, slow, act, dry_run=True).done is False
    assert three.told() == []
    slow.read.clear()
    move = promotion.move(three.db, slow, act)
    assert (move.done, move.after, three.live()) == (True, 2, 2)
    assert len(slow.read) == len(set(slow.read)) == len(versions.ADAPTER_FILES)


def test_a_damaged_file_stops_a_move_before_anything_is_locked(three):
    with three.db.read() as session:
        (weights, *_) = [f.sha256 for f in versions.resolve(session, "elena@2").files if f.path.endswith("safetensors")]
    damage(three.store, weights)

    def act(session, store, dry_run):
        assert dry_run
        return promotion.promote(session, store, versions.resolve(session, "elena@2"), actor=ACTOR, dry_run=dry_run)

    with pytest.raises(NotPromotable, match="damaged"):
        promotion.move(three.db, three.store, act)


def test_a_target_that_changed_between_rehearsal_and_move_is_read_before_it_is_acted_on(three):
    three.promote(1)
    three.promote(2)
    slow, acted = Slow(three), []

    def act(session, store, dry_run):
        advisors.get_active(session, "elena", lock=not dry_run)
        acted.append(dry_run)
        chosen = 3 if dry_run and len(acted) < 3 else 1  # what was rehearsed is not what stands there when the lock is held
        return promotion.promote(session, store, versions.resolve(session, f"elena@{chosen}"), actor=ACTOR, dry_run=dry_run)

    assert promotion.move(three.db, slow, act).after == 1
    assert acted == [True, True, False, True, False]
    assert len(slow.read) == len(set(slow.read)) == 2 * len(versions.ADAPTER_FILES)


# -- the rules, pure ----------------------------------------------------------------------------------------------------------------------


def test_every_reason_is_given_at_once():
    good = Candidate("elena@1", "ready", advisor_retired=False, file_problems=(), withdrawn_sources=())
    assert may_be_served(good) == Allowed()
    bad = Candidate(
        "elena@1", "withdrawn", advisor_retired=True, file_problems=("a: damaged",), withdrawn_sources=("X",), blocked_sources=("Y",)
    )
    decision = may_be_served(bad)
    assert isinstance(decision, Refused)
    assert len(decision.reasons) == 5


# -- the hash chain -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("UPDATE events SET actor = 'somebody else' WHERE seq = 2", "event 2 .* was changed"),
        ("UPDATE events SET body = '{}' WHERE seq = 3", "event 3 .* was changed"),
        ("DELETE FROM events WHERE seq = 2", "event 2 is missing"),
        ("DELETE FROM events WHERE seq >= 4", "its head says"),
        ("UPDATE events SET hash = 'sha256:' || substr(hash, 8, 63) || 'z' WHERE seq = 4", "event 5 does not follow|was changed"),
        ("UPDATE chain_head SET hash = 'x'", "its head says"),
    ],
)
def test_a_changed_history_is_found(three, fault, words):
    import re

    with tampering(three.db) as connection:
        connection.execute(sa.text(fault))
    with three.db.read() as session:
        faults = events.audit(session)
    assert any(re.search(words, f) for f in faults), faults


def test_a_cut_tail_shows_against_an_exported_head(three):
    with three.db.read() as session:
        kept = events.head(session)
    three.promote(1)
    with three.db.read() as session:
        assert events.audit(session, kept) == []
    with tampering(three.db) as connection:  # somebody who also mends the head
        connection.execute(sa.text("DELETE FROM events WHERE seq > 3"))
        connection.execute(sa.text("UPDATE chain_head SET seq = 3, hash = (SELECT hash FROM events WHERE seq = 3)"))
    with three.db.read() as session:
        assert events.audit(session) == []
        assert any("tail was cut" in f for f in events.audit(session, kept))
