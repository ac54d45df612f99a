"""The job engine on both databases: steps are recorded once, jobs change hands, nobody acts twice, everything is JSON.

Most workers here are this very process with a puppet for a trainer; those that are killed or paused are processes of their own.
"""

import contextlib
import os
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

from jobs.engine import wave
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
    def elsewhere(self, pace_s):
        """A worker in a process of its own."""
        script = Path(__file__).resolve().parent.parent / "fakes" / "puppet_worker.py"
        command = [sys.executable, str(script), str(self.settings.home), self.url, self.store.location, str(pace_s)]
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
    trainer.fails[bad] = TrainingFailed("The loss is no number.", hint="Lower learning_rate.")
    made = wave.start(house.queue, "wave-1", ["elena", "marcus", "nobody-here", "priya"], order_or_refuse(house), "gpu")
    assert house.work(trainer) == "nothing is left to do"

    found = wave.report(house.queue, "wave-1")
    wave.save(house.queue, found)
    assert found["counts"] == {"succeeded": 2, "failed": 1, "refused": 1}
    by_name = {fate["advisor"]: fate for fate in found["advisors"]}
    assert (by_name["elena"]["version"], by_name["elena"]["promoted"], by_name["elena"]["why"]) == (1, "live", ())
    assert "The loss is no number" in by_name["marcus"]["why"][0]
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
    with house.elsewhere(30) as dying:
        house.until(lambda: house.training(job), "the other worker never trained")
        dying.send_signal(signal.SIGKILL)
        dying.wait()
    begun = time.monotonic()
    house.work(done=lambda: not house.queue.status(job).open)
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


def test_a_worker_is_dead_after_three_beats_at_least():
    with pytest.raises(Invalid, match="three beats"):
        Pace(beat_s=5, dead_s=10)
