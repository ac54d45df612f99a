"""The job engine on both databases: steps are recorded once, jobs change hands, nobody acts twice, everything is JSON.

Most workers here are this very process with a puppet for a trainer; those that are killed or paused are processes of their own.
"""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from factories import ACTOR, add_advisor, add_dataset, line
from fakes.puppet_trainer import PuppetTrainer
from fakes.puppet_worker import FAST

from commands.jobs import _leave_at
from jobs.engine import processes, wave
from jobs.engine.orders import check_recipe
from jobs.engine.pace import Pace
from jobs.engine.worker import LOST, Wishes, Worker
from registry import advisors, events, promotion
from registry.db import Database
from registry.errors import Invalid, TrainingFailed
from registry.job_board import JobBoard
from registry.job_queue import SCHEMA, BuildOrder, JobQueue, dbos_url
from registry.models import AdapterVersion, Run
from registry.settings import Settings

RECIPE = {"method": "lora", "r": 2, "alpha": 4, "targets": "attention"}
ALL = ["curate", "train", "evaluate", "gate", "promote"]
LIMIT_S = 30.0  # of every wait; a loaded machine needs a second or two


class House:
    """An installation with a queue, advisors, and workers here or in processes of their own."""

    def __init__(self, home, url, store, bases):
        self.url = url
        self.settings = Settings(home=home, database_url=url, artifacts=store.location)
        self.db, self.store = Database(url), store
        self.queue = JobQueue.open(home, url)
        self.queue.prepare()
        (home / "bases").symlink_to(bases)

    @property
    def board(self) -> JobBoard:
        return self.queue.board

    def advisor(self, slug, pairs=20, fraction=0.4):
        """The digest of the advisor's dataset."""
        add_advisor(self.db, slug)
        rows = [line(f"Question {n} of {slug}?", f"Answer {n}, {slug}.") for n in range(pairs)]
        return add_dataset(self.db, rows, slug, fraction=fraction).sha256

    def order(self, slug, **more):
        return BuildOrder(slug, ACTOR, **{"base": "tiny", "recipe": RECIPE, **more})

    def build(self, slug, **more):
        return self.queue.enqueue(self.order(slug, **more))

    def worker(self, trainer=None):
        return Worker(self.settings, self.db, self.store, trainer or PuppetTrainer(), pace=FAST)

    def work(self, trainer=None, **wishes):
        """Be a worker until nothing is left, or until another wish comes true."""
        return self.worker(trainer).run(Wishes(**(wishes or {"once": True})))

    @contextlib.contextmanager
    def elsewhere(self, pace_s, host="another-machine"):
        """A worker in a process of its own, as on another machine that shares this home."""
        script = Path(__file__).resolve().parent.parent / "fakes" / "puppet_worker.py"
        command = [sys.executable, str(script), str(self.settings.home), self.url, self.store.location, str(pace_s), host]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline().startswith("ready")
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def steps(self, job):
        """The steps that began, in order, once for every beginning."""
        return [ln.body["step"] for ln in self.board.since(job, 0) if ln.kind == "step" and ln.body["state"] == "began"]

    def until(self, what, words):
        deadline = time.monotonic() + LIMIT_S
        while not what():
            assert time.monotonic() < deadline, words
            time.sleep(0.02)

    def training(self, job):
        """Whether a training of the job is in the middle."""
        return any(ln.kind == "train" and ln.body.get("event") == "step" for ln in self.board.since(job, 0))

    def versions(self, slug):
        with self.db.read() as session:
            owner = advisors.get(session, slug).id
            found = session.scalars(sa.select(AdapterVersion).where(AdapterVersion.advisor_id == owner).order_by(AdapterVersion.number))
            return [(v.number, v.state, v.job) for v in found]

    def told(self, slug, tag):
        with self.db.read() as session:
            found = events.of_advisor(session, advisors.get(session, slug), tag_prefix=tag)
            return [events.body_of(event) for event in found]


@pytest.fixture
def lone(make_sqlite, store, tmp_path, tiny_bases):
    """A house on SQLite, for what no database changes."""
    made = House(tmp_path, make_sqlite(), store, tiny_bases)
    yield made
    made.queue.dispose()
    made.db.dispose()


@pytest.fixture
def house(database_url, store, tmp_path, tiny_bases):
    made = House(tmp_path, database_url, store, tiny_bases)
    yield made
    made.queue.dispose()
    made.db.dispose()


def rows_of(house, table):
    engine = sa.create_engine(dbos_url(house.settings.home, house.url))
    name = table if house.db.is_sqlite else f"{SCHEMA}.{table}"
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}")).mappings()]
    engine.dispose()
    return found


def test_a_wave_ends_with_what_happened_to_each(house):
    good, bad = house.advisor("elena"), house.advisor("marcus")
    house.advisor("priya", fraction=0.0)
    trainer = PuppetTrainer()
    trainer.fails[bad] = TrainingFailed(f"The loss is no number, see {house.settings.home}/work/log.", hint="Lower learning_rate.")
    made = wave.start(house.queue, "wave-1", ["elena", "marcus", "nobody-here", "priya"], order_or_refuse(house), "gpu")
    assert house.work(trainer) == "nothing is left to do"

    found = wave.report(house.queue, "wave-1")
    wave.save(house.queue, found)
    assert found["counts"] == {"succeeded": 2, "failed": 1, "refused": 1}
    by_name = {fate["advisor"]: fate for fate in found["advisors"]}
    assert (by_name["elena"]["version"], by_name["elena"]["promoted"], by_name["elena"]["why"]) == (1, "live", ())
    assert "The loss is no number" in by_name["marcus"]["why"][0]
    # Who may read a job's lines reads nothing of the machine.
    assert "see <home>/work/log" in by_name["marcus"]["why"][0]
    said = str([ln.body for job in made.jobs.values() for ln in house.board.since(job, 0)])
    assert str(house.settings.home) not in said
    assert platform.node() not in said
    assert by_name["priya"]["promoted"] is None
    assert "nothing was held out" in by_name["priya"]["why"][0]
    assert "nobody-here" in by_name["nobody-here"]["why"][0]
    assert [line.body["counts"] for line in house.board.since("wave-1", 0) if line.kind == "wave"] == [found["counts"]]

    # The history tells each finished build once, and its move names the job.
    (ended,) = house.told("elena", "build:finished")
    assert ended == {"job": made.jobs["elena"], "dataset": good, "version": 1, "promoted": "live", "reasons": []}
    assert [move["job"] for move in house.told("elena", "alias:")] == [made.jobs["elena"]]
    assert house.told("priya", "build:finished")[0]["reasons"]
    assert not house.told("priya", "alias:")
    assert house.versions("marcus") == []
    only_json(house)

    # A retry goes on with the step that failed, and with no other.
    trainer.fails.clear()
    house.queue.retry(made.jobs["marcus"])
    house.work(trainer)
    assert house.queue.status(made.jobs["marcus"]).state == "succeeded"
    assert house.steps(made.jobs["marcus"]) == ["curate", "train", *ALL[1:]]
    assert house.steps(made.jobs["elena"]) == ALL


def order_or_refuse(house):
    from jobs.engine.orders import checked

    return lambda slug: checked(house.db, house.order(slug, wave="wave-1"))


def only_json(house):
    """Nothing that DBOS keeps is a pickle."""
    tables = ("workflow_status", "operation_outputs", "workflow_input", "workflow_output")
    kept = {table: rows_of(house, table) for table in tables}
    named = {row["serialization"] for table in tables[:2] for row in kept[table]}
    assert named == {"portable_json"}
    texts = [str(row[c]) for rows in kept.values() for row in rows for c in ("inputs", "output", "error") if row.get(c) is not None]
    assert len(texts) > len(ALL)
    assert all(text[0] in '{["' for text in texts)
    assert not any(text.startswith("gASV") for text in texts)  # how a pickle begins in base64


def test_a_row_that_holds_a_pickle_is_refused_not_read(house, tmp_path):
    import base64
    import pickle

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "it-ran"),))

    house.advisor("elena")
    job = house.build("elena")
    text = base64.b64encode(pickle.dumps(Bomb())).decode()
    engine = sa.create_engine(dbos_url(house.settings.home, house.url))
    where = "" if house.db.is_sqlite else f"{SCHEMA}."
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {where}workflow_input SET inputs = :text"), {"text": text})
        connection.execute(sa.text(f"UPDATE {where}workflow_status SET serialization = 'py_pickle'"))
    engine.dispose()
    with contextlib.suppress(Exception):
        house.queue.list()
    house.work()
    assert house.queue.status(job).state == "failed"
    kept = [str(row[c]) for row in rows_of(house, "workflow_output") for c in ("output", "error") if row.get(c)]
    assert len(kept) == 1
    assert "holds a pickle" in kept[0]
    assert not (tmp_path / "it-ran").exists()


def test_a_killed_workers_job_is_finished_by_another(house):
    house.advisor("elena")
    job = house.build("elena")
    with house.elsewhere(30, platform.node()) as dying:
        house.until(lambda: house.training(job), "the other worker never trained")
        dying.send_signal(signal.SIGKILL)
        dying.wait()
    begun = time.monotonic()
    house.work()  # what a worker left that just died is not nothing
    assert time.monotonic() - begun < LIMIT_S
    assert house.queue.status(job).state == "succeeded"
    assert house.versions("elena") == [(1, "ready", job)]
    assert house.steps(job) == ["curate", "train", *ALL[1:]]
    assert house.board.workers() == []
    with house.db.read() as session:  # the killed attempt's record is closed too
        assert sorted(session.scalars(sa.select(Run.state))) == ["failed", "succeeded"]


def test_a_worker_that_slept_past_its_death_stands_down(house):
    house.advisor("elena")
    job = house.build("elena")
    with house.elsewhere(0.3) as sleeper:
        house.until(lambda: house.training(job), "the other worker never trained")
        sleeper.send_signal(signal.SIGSTOP)
        wakes = threading.Timer(3 * FAST.dead_s, sleeper.send_signal, [signal.SIGCONT])
        wakes.start()
        house.work(done=lambda: not house.queue.status(job).open)
        rest = sleeper.communicate(timeout=LIMIT_S)[0]
    assert f"left {LOST}" in rest
    assert sleeper.returncode == 0
    assert house.versions("elena") == [(1, "ready", job)]
    assert len(house.told("elena", "alias:")) == len(house.told("elena", "build:finished")) == 1
    assert house.steps(job).count("promote") == 1


def test_a_worker_that_is_asked_to_leave_hands_its_jobs_back(house):
    house.advisor("elena")
    house.advisor("marcus")
    jobs = [house.build("elena"), house.build("marcus")]
    trainer = PuppetTrainer(pace=30)
    worker = house.worker(trainer)
    asks = threading.Thread(target=lambda: (trainer.at_step.wait(LIMIT_S), worker.ask("asked to")))
    asks.start()
    assert worker.run() == "asked to"
    asks.join()
    assert not worker.stuck
    assert [house.queue.status(job).state for job in jobs] == ["queued", "queued"]
    assert house.board.workers() == []
    assert trainer.finished == 0
    assert house.versions("elena") == []
    # One job and no more: the other, although it was fetched, goes back.
    assert house.work(max_jobs=1) == "it took 1 jobs"
    assert sorted(house.queue.status(job).state for job in jobs) == ["queued", "succeeded"]
    assert house.work(until=time.time()) == "its time is over"
    house.work()
    assert [house.queue.status(job).state for job in jobs] == ["succeeded", "succeeded"]
    assert all(house.steps(job).count("curate") == 1 for job in jobs)


def test_a_cancelled_training_stops_and_leaves_nothing(house):
    house.advisor("elena")
    job = house.build("elena")
    trainer = PuppetTrainer(pace=30)
    worker = house.worker(trainer)

    def cancel():
        trainer.at_step.wait(LIMIT_S)
        house.queue.cancel(job)

    cancels = threading.Thread(target=cancel)
    cancels.start()
    assert worker.run(Wishes(once=True)) == "nothing is left to do"
    cancels.join()
    assert house.queue.status(job).state == "cancelled"
    assert house.versions("elena") == []
    assert not house.told("elena", "build:")
    house.queue.retry(job)
    house.work()
    assert house.queue.status(job).state == "succeeded"
    assert house.steps(job) == ["curate", "train", *ALL[1:]]


def test_the_next_job_is_prepared_while_one_trains_and_bases_stay_together(house):
    for slug in ("elena", "marcus", "priya", "ada"):
        house.advisor(slug)
    jobs = [house.build(slug, base=base) for slug, base in (("elena", "tiny"), ("marcus", None), ("priya", "tiny"), ("ada", None))]
    trainer = PuppetTrainer(pace=0.1)
    house.work(trainer)
    assert [house.queue.status(job).state for job in jobs] == ["succeeded"] * 4
    started = sorted((ln.at, job) for job in jobs for ln in house.board.since(job, 0) if ln.kind == "step" and ln.body["step"] == "curate")
    order = list(dict.fromkeys(job for _, job in started))
    assert set(order[:2]) in ({jobs[0], jobs[2]}, {jobs[1], jobs[3]})
    first, second = order[:2]
    trained = next(
        ln.at for ln in house.board.since(first, 0) if ln.kind == "step" and ln.body.get("seconds") and ln.body["step"] == "train"
    )
    assert next(at for at, job in started if job == second) < trained
    finished = [ln.at for job in jobs for ln in house.board.since(job, 0) if ln.body.get("event") == "step"]
    assert len(finished) >= 4


def test_a_build_says_why_it_is_not_promoted_and_never_promotes_twice(house):
    house.advisor("elena")
    trainer = PuppetTrainer()
    trainer.better = False
    worse = house.build("elena")
    house.work(trainer)
    result = house.queue.status(worse).result
    assert result["gate"]["allowed"] is False
    assert "worse than the base" in result["promote"]["reasons"][0]
    trainer.better = True
    never, better = house.build("elena", seed=2, promote="never"), house.build("elena", seed=3)
    house.work(trainer)
    assert house.queue.status(never).result["promote"]["reasons"] == ["the order says not to promote"]
    assert house.queue.status(better).result["promote"]["promoted"] == "live"
    # A step that is run again, by a worker that slept, finds what the job did and does nothing.
    from jobs.engine import stages

    order = BuildOrder.from_json(house.board.job(better).order)
    tools = stages.Tools(house.settings, house.db, house.store, trainer.train, lambda *_: None, lambda: None)
    done = house.queue.status(better).result
    again = stages.promote(tools, better, order, done)
    assert again == done["promote"]
    assert stages.train(tools, better, order, done)["version"] == done["train"]["version"]
    with house.db.read() as session:
        assert len(promotion.history(session, advisors.get(session, "elena"))) == 1
    told = [body["job"] for body in house.told("elena", "build:")]
    assert (told[0], set(told[1:])) == (worse, {never, better})
    assert len(house.versions("elena")) == 3

    # An older version never takes the alias back from a newer one, and who moved it between gate and promotion is not overridden.
    numbers = {number: house.queue.status(job).result for number, _, job in house.versions("elena")}
    live = done["train"]["version"]
    older = stages.gate(tools, "late", order, numbers[live] | {"train": {"version": 1}})
    assert (older["allowed"], older["reasons"]) == (
        False,
        [f"elena@{live} is live, which is newer; promote it by hand where that is wanted"],
    )
    late = numbers[live] | {"gate": {"allowed": True, "reasons": [], "found": stages.gate(tools, "late", order, numbers[live])["found"]}}
    late["train"] = {"version": 5 - live}
    with house.db.transaction() as session:
        promotion.clear(session, advisors.get(session, "elena", lock=True), actor=ACTOR, reason="a person")
    ended = stages.promote(tools, "late", order, late)
    assert ended["promoted"] is None
    assert "moved meanwhile" in ended["reasons"][0]
    with house.db.read() as session:
        assert len(promotion.history(session, advisors.get(session, "elena"))) == 2


def test_a_worker_is_dead_after_three_beats_at_least():
    with pytest.raises(Invalid, match="three beats"):
        Pace(beat_s=5, dead_s=10)


def test_a_failure_while_leaving_is_not_the_jobs(lone):
    class Breaks(PuppetTrainer):
        def train(self, spec, on_event):
            worker.ask("asked to")
            raise TrainingFailed("The training process was ended.")

    lone.advisor("elena")
    job = lone.build("elena")
    worker = lone.worker(Breaks())
    assert worker.run() == "asked to"
    assert lone.queue.status(job).state == "queued"
    assert not [ln for ln in lone.board.since(job, 0) if ln.kind == "failed"]


def test_a_cancelled_job_that_is_retried_at_once_waits_for_its_old_attempt(lone):
    lone.advisor("elena")
    job = lone.build("elena")
    trainer = PuppetTrainer(pace=30)

    def again():
        trainer.at_step.wait(LIMIT_S)
        trainer.pace = 0
        lone.queue.cancel(job)
        lone.queue.retry(job)

    retries = threading.Thread(target=again)
    retries.start()
    lone.work(trainer, done=lambda: lone.queue.status(job).state == "succeeded")
    retries.join()
    assert trainer.finished == 1
    assert len(trainer.trained) == 2
    assert len(lone.versions("elena")) == 1


def test_a_stopped_worker_is_ended_where_it_would_hold_a_lock_for_ever(lone):
    lone.advisor("elena")
    job = lone.build("elena")
    with lone.elsewhere(30, platform.node()) as stopped:
        lone.until(lambda: lone.training(job), "the other worker never trained")
        stopped.send_signal(signal.SIGSTOP)
        lone.work(done=lambda: not lone.queue.status(job).open)
        assert stopped.wait(LIMIT_S) == -signal.SIGKILL
    assert lone.versions("elena") == [(1, "ready", job)]


def test_no_other_process_is_ended():
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        began = processes._since(sleeper.pid)
        mine = {"host": platform.node(), "pid": sleeper.pid, "since": began}
        assert not processes.end_stopped(mine)  # it runs
        sleeper.send_signal(signal.SIGSTOP)
        while processes._state(sleeper.pid) != "T":
            time.sleep(0.01)
        assert not processes.end_stopped(mine | {"since": f"{began}1"})  # the number came to mean another process
        assert not processes.end_stopped(mine | {"host": "elsewhere"})
        assert not processes.end_stopped({"pid": sleeper.pid})
        assert not processes.gone(mine)
        assert processes.end_stopped(mine)
        assert sleeper.wait(LIMIT_S) == -signal.SIGKILL
        assert processes.gone(mine)
        assert not processes.end_stopped(mine)


def test_a_worker_leaves_when_its_own_jobs_are_done(lone):
    lone.advisor("elena")
    lone.advisor("marcus")
    own, others = lone.build("elena"), []
    trainer = PuppetTrainer(pace=0.3)
    orders = threading.Thread(target=lambda: (trainer.at_step.wait(LIMIT_S), others.append(lone.build("marcus"))))
    orders.start()
    assert lone.work(trainer, once=True, done=lambda: not lone.queue.status(own).open) == "its jobs are done"
    orders.join()
    assert [lone.queue.status(job).state for job in (own, *others)] == ["succeeded", "queued"]


def test_no_error_ends_the_heartbeat(lone, capsys):
    worker = lone.worker()
    beat, calls = worker._beat, []

    def troubled():
        calls.append(None)
        if len(calls) < 4:
            raise RuntimeError("nobody foresaw this")
        return beat()

    worker._beat = troubled
    worker.run(Wishes(done=lambda: len(calls) > 5))
    assert capsys.readouterr().err.count("RuntimeError: nobody foresaw this") == 1


def test_a_large_wave_is_kept_whole(lone):
    def refuse(slug):
        raise Invalid(f"{slug}: " + "\u00e9" * 2000)

    slugs = [f"advisor-{number}" for number in range(520)]
    wave.start(lone.queue, "wave-2", slugs, refuse, "gpu")
    found = wave.report(lone.queue, "wave-2")
    assert found["counts"] == {"refused": 520}
    assert {len(fate["why"][0]) for fate in found["advisors"]} == {wave.MAX_REASON}
    wave.save(lone.queue, found)
    kept = [ln.body for ln in lone.board.since("wave-2", 520)]
    assert [fate["advisor"] for body in kept for fate in body["advisors"]] == slugs
    assert [body["part"] for body in kept] == list(range(1, kept[0]["parts"] + 1))


def test_a_recipe_that_cannot_train_is_refused_when_it_is_ordered(lone):
    for settings, words in (({"lerning_rate": 1.0}, "lerning_rate"), ({"method": "lora", "r": -1}, "r")):
        with pytest.raises(Invalid, match=words):
            check_recipe(lone.order("elena", recipe=settings), lone.settings.home)
    check_recipe(lone.order("elena", recipe={"method": "qlora", "processes": 2}, base=None), lone.settings.home)


def test_an_order_that_was_changed_in_the_queue_is_not_executed(house):
    """The worker's role may write DBOS's tables, but not the board's."""
    house.advisor("elena")
    changed, unknown = house.build("elena"), house.build("elena", seed=7)
    engine = sa.create_engine(dbos_url(house.settings.home, house.url))
    where = "" if house.db.is_sqlite else f"{SCHEMA}."
    with engine.begin() as connection:
        altered = connection.execute(
            sa.text(f"UPDATE {where}workflow_input SET inputs = replace(inputs, '\"gate\"', '\"never\"') WHERE workflow_uuid = :job"),
            {"job": changed},
        )
        assert altered.rowcount == 1
    engine.dispose()
    rows = sa.table("jobs", sa.column("job"), schema=None if house.db.is_sqlite else "registry_jobs")
    with house.board._writer.begin() as connection:
        connection.execute(sa.delete(rows).where(rows.c.job == unknown))
    house.work()
    assert house.queue.status(changed).state == "failed"
    assert "is not the order that was put down" in house.queue.status(changed).error
    for job in (changed, unknown):
        assert house.steps(job) == []
        [told] = [ln.body for ln in house.board.since(job, 0) if ln.kind == "failed"]
        assert "is not the order that was put down" in told["message"]
    assert house.versions("elena") == []


def test_a_worker_that_begins_anew_leaves_when_it_was_told_to(monkeypatch):
    monkeypatch.setenv("REGISTRY_WORKER_UNTIL", "1234.5")
    assert _leave_at("06:00") == 1234.5
    assert _leave_at("06:00") > time.time()  # it holds for one process
    assert _leave_at(None) is None


@pytest.mark.train
def test_the_next_training_does_not_hear_that_the_last_one_was_cancelled(lone, warm_trainer):
    """With the real trainer: a job is cancelled in its last step while another waits for its turn."""
    lone.advisor("elena", pairs=8)
    lone.advisor("marcus", pairs=8)
    recipe = RECIPE | {"max_steps": 2, "batch_size": 2, "kept_checkpoints": 0}
    first, second = (lone.build(slug, recipe=recipe) for slug in ("elena", "marcus"))

    def at_its_end(job, _kind, body):
        if job == first and body.get("event") == "step" and body["step"] == body["of"]:
            lone.queue.cancel(first)
            worker._look_for_cancelled()

    trainer = Shared(warm_trainer)
    worker = Worker(lone.settings, lone.db, lone.store, trainer, pace=FAST, on_line=at_its_end)
    assert worker.run(Wishes(once=True)) == "nothing is left to do"
    assert [lone.queue.status(job).state for job in (first, second)] == ["cancelled", "succeeded"]
    assert lone.versions("elena") == []
    assert lone.versions("marcus") == [(1, "ready", second)]


class Shared:
    """The session's trainer, which no worker may close."""

    def __init__(self, trainer):
        self.train, self.stop = trainer.train, trainer.stop

    def close(self):
        self.stop()
