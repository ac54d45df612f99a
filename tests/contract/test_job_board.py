"""The board and the queue of durable jobs, on SQLite and on a real Postgres, with DBOS's real tables and no worker."""

import threading
import time
from dataclasses import fields

import pytest
import sqlalchemy as sa

from jobs.train import Request
from registry import job_queue
from registry.db import Database
from registry.errors import Conflict, Invalid, NotFound, RegistryError, Unavailable, told_outside
from registry.job_board import SCHEMA, JobBoard
from registry.job_queue import BuildOrder, JobQueue, job_id, priority_of
from registry.vocabulary import DEFAULT_SEED, RECIPE_SETTINGS
from trainer.recipe import Recipe, check_settings

pytest.importorskip("dbos")


@pytest.fixture
def board(tmp_path, database_url):
    made = JobBoard.open(tmp_path / "home", database_url)
    made.prepare()
    yield made
    made.dispose()


@pytest.fixture
def queue(tmp_path, database_url):
    made = JobQueue.open(tmp_path / "home", database_url)
    made.prepare()
    yield made
    made.dispose()


@pytest.fixture
def small(tmp_path):
    """A queue for what does not depend on the database."""
    made = JobQueue.open(tmp_path / "home", "sqlite://")
    made.prepare()
    yield made
    made.dispose()


def order(advisor="elena", **more):
    return BuildOrder(advisor, "tester", **more)


def together(*calls):
    """Run the calls at the same moment; returns what each returned, and raises what one raised."""
    gate, results = threading.Barrier(len(calls)), [None] * len(calls)

    def run(index, call):
        gate.wait()
        try:
            results[index] = call()
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread of the test
            results[index] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


# ---- The board ------------------------------------------------------------------------------------------------------------------------------


def test_two_prepare_at_once_and_again(tmp_path, database_url):
    boards = [JobBoard.open(tmp_path / "home", database_url) for _ in range(2)]
    together(*(board.prepare for board in boards))
    boards[0].prepare()
    assert boards[0].jobs() == []
    for board in boards:
        board.dispose()


def test_the_tables_stay_out_of_the_catalogue(board, database_url):
    db = Database(database_url)
    with db.engine.connect() as connection:
        assert not {"lines", "workers", "jobs"} & set(sa.inspect(connection).get_table_names())
        if not db.is_sqlite:
            assert set(sa.inspect(connection).get_table_names(schema=SCHEMA)) == {"lines", "workers", "jobs"}
    db.dispose()


def test_a_board_that_was_not_prepared_says_so(tmp_path, database_url):
    board = JobBoard.open(tmp_path / "home", database_url)
    for call in (board.jobs, lambda: board.beat("a", {}), lambda: board.progress("a", "step", {})):
        with pytest.raises(Unavailable, match="tables for jobs") as refused:
            call()
        assert "registry init" in str(refused.value.hint)
    board.dispose()


def test_a_database_that_is_away_is_told_in_words(tmp_path):
    board = JobBoard.open(tmp_path, "postgresql://nobody@127.0.0.1:9/nothing")
    with pytest.raises(Unavailable, match="does not answer"):
        board.jobs()
    board.dispose()


def test_lines_are_numbered_in_the_order_they_are_seen_in(board):
    def write(name):
        for index in range(10):
            board.progress("build-elena-1", "step", {"by": name, "index": index})

    together(lambda: write("a"), lambda: write("b"), lambda: board.progress("build-marcus-1", "note", {}))
    lines = board.since("build-elena-1", 0)
    assert [line.seq for line in lines] == list(range(1, 21))
    for name in "ab":
        assert [line.body["index"] for line in lines if line.body["by"] == name] == list(range(10))
    assert [line.seq for line in board.since("build-elena-1", 18)] == [19, 20]
    assert [line.seq for line in board.since("build-elena-1", 3, limit=2)] == [4, 5]
    assert board.since("nobody", 0) == []
    assert abs(time.time() - lines[0].at.timestamp()) < 60
    newest = board.newest(["build-elena-1", "build-marcus-1"], "step")
    assert {job: line.seq for job, line in newest.items()} == {"build-elena-1": 20}


def test_a_line_that_is_no_json_or_too_large_is_refused(board):
    for body in ({"a": object()}, {"a": float("nan")}, {"a": "x" * 70_000}):
        with pytest.raises(Invalid, match="a line of progress"):
            board.progress("build-elena-1", "step", body)
    assert board.since("build-elena-1", 0) == []


def test_a_heartbeat_is_by_the_databases_clock(board):
    board.beat("a", {"host": "one", "pid": 1})
    board.beat("b", {"host": "two"})
    with pytest.raises(Conflict, match="worker 'a' already"):
        board.beat("a", {"host": "one", "pid": 2})
    assert board.renew("a", {"host": "one", "pid": 2})
    found = {worker.executor: worker for worker in board.workers()}
    assert found["a"].facts == {"host": "one", "pid": 2}
    assert 0 <= found["a"].age_s < 60
    assert abs(time.time() - found["b"].beat_at.timestamp()) < 60
    board.retire("a")
    assert [worker.executor for worker in board.workers()] == ["b"]


def test_each_dead_worker_is_claimed_once(board):
    names = [f"dead-{index}" for index in range(8)]
    for name in names:
        board.beat(name, {})
    time.sleep(0.3)
    board.beat("alive", {})
    claims = together(*(lambda by=by: board.claim_dead(0.25, by) for by in ("alive", "reaper-1", "reaper-2", "dead-0")))
    won = [name for claim in claims for name in claim if name != "alive"]
    assert len(won) == len(set(won))  # nobody twice
    assert set(won) == set(names)
    assert "dead-0" not in claims[3]  # nor oneself


def test_a_worker_is_judged_by_its_own_deadline(board):
    board.beat("patient", {"dead_s": 60})
    board.beat("hasty", {"dead_s": 0.05})
    for name, nonsense in (("text", "x"), ("true", True), ("negative", -1), ("none", None)):
        board.beat(name, {"dead_s": nonsense})
    time.sleep(0.1)
    assert board.claim_dead(30, "reaper") == ["hasty"]
    assert board.claim_dead(0.05, "reaper") == ["negative", "none", "text", "true"]  # who told no deadline is judged by the reaper's
    assert board.renew("patient", {"dead_s": 60})


def test_a_claim_lapses_and_a_heartbeat_does_not_take_it_back(board):
    board.beat("slow", {})
    time.sleep(0.2)
    assert board.claim_dead(0.1, "reaper") == ["slow"]
    assert board.claim_dead(0.1, "other") == []
    time.sleep(0.2)
    assert board.claim_dead(0.1, "other") == ["slow"]  # the first reaper died, too
    assert not board.renew("slow", {})
    assert board.claim_dead(5, "other") == []
    assert [worker.executor for worker in board.workers()] == ["slow"]


def test_orders_by_advisor_and_wave_in_pages(board):
    for index in range(5):
        board.put_job(f"build-elena-{index}", {"advisor": "elena", "n": index}, "tester", "spring" if index % 2 else None)
    board.put_job("build-marcus-0", {"advisor": "marcus"}, "tester", "spring", queue="cpu")
    assert [row.job for row in board.jobs("elena")] == [f"build-elena-{index}" for index in (4, 3, 2, 1, 0)]
    assert [row.job for row in board.jobs(wave="spring")] == ["build-marcus-0", "build-elena-3", "build-elena-1"]
    first = board.jobs("elena", limit=2)
    assert [row.job for row in board.jobs("elena", before=first[-1].number)] == ["build-elena-2", "build-elena-1", "build-elena-0"]
    row = board.job("build-marcus-0")
    assert (row.advisor, row.wave, row.queue, row.order) == ("marcus", "spring", "cpu", {"advisor": "marcus"})
    with pytest.raises(NotFound, match="no job 'nothing'"):
        board.job("nothing")


def test_an_order_is_put_down_once(board):
    assert board.put_job("build-elena-1", {"advisor": "elena", "seed": 1}, "tester", None)
    assert not board.put_job("build-elena-1", {"seed": 1, "advisor": "elena"}, "tester", None)
    with pytest.raises(Conflict, match="other settings"):
        board.put_job("build-elena-1", {"advisor": "elena", "seed": 2}, "tester", None)


# ---- Orders ---------------------------------------------------------------------------------------------------------------------------------


def test_an_order_survives_json():
    made = order(
        examples=50, terms_sha256="sha256:" + "a" * 64, base="org/model@" + "0a" * 20, recipe={"r": 8, "target_modules": ["q_proj"]},
        pipeline={"provider": "openai", "composition": {"stress": 1.0}, "denied_domains": ["example.org"]}, wave="spring-2", seed=7, promote="never",
    )  # fmt: skip
    assert BuildOrder.from_json(made.as_json()) == made
    for wrong in ({**made.as_json(), "folder": "x"}, {k: v for k, v in made.as_json().items() if k != "seed"}):
        with pytest.raises(Invalid, match="An order has the fields"):
            BuildOrder.from_json(wrong)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("kind", "train", "build or pipeline"),
        ("promote", "always", "gate or never"),
        ("force", "yes", "true or false"),
        ("advisor", "../elena", "1-63 characters"),
        ("alias", "7", "cannot name an alias"),
        ("actor", "a\x00b", "control character"),
        ("wave", "spring wave", "1-63 characters"),
        ("examples", 0, "from 1 to"),
        ("examples", True, "from 1 to"),
        ("seed", -1, "from 0 to"),
        ("seed", 1.5, "from 0 to"),
        ("seed", 2**31, "from 0 to 2147483647"),
        ("dataset", "elena", "A digest is"),
        ("terms_sha256", 7, "a digest or null"),
        ("base", "/models/mistral", "never a path"),
        ("base", "../mistral", "never a path"),
        ("base", "a/b/c", "never a path"),
        ("base", "a/..", "never a path"),
        ("base", "a/b@main", "40 hex digits"),
        ("base", "a/b@" + "A" * 40, "40 hex digits"),
        ("base", "tiny@" + "a" * 40, "40 hex digits"),
        ("recipe", [], "a JSON object"),
        ("recipe", {"r": {"deep": 1}}, "a number, a short text"),
        ("recipe", {"nonsense": 1, "method": "dora"}, "no setting 'nonsense'"),
        ("recipe", {"chat_template": "/etc/passwd"}, "no path and no address"),
        ("recipe", {"chat_template": "https://example.org/x"}, "no path and no address"),
        ("recipe", {"learning_rate": float("nan")}, "a number, a short text"),
        ("recipe", {str(n): n for n in range(65)}, "at most 64"),
        ("pipeline", {"documents": ["x"]}, "command line alone"),
        ("pipeline", {"thresholds": {"a": {"b": 1}}}, "a number, a short text"),
        ("pipeline", {"model": "~/x"}, "no path and no address"),
    ],
)
def test_what_an_order_may_not_say(field, value, words):
    with pytest.raises(Invalid, match=words):
        order(**({"advisor": value} if field == "advisor" else {field: value})) if field != "actor" else BuildOrder("elena", value)


def test_pairs_and_a_dataset_are_not_ordered_together():
    with pytest.raises(Invalid, match="left out where a dataset is named"):
        order(examples=5, dataset="sha256:" + "a" * 64)


def test_the_catalogue_knows_every_setting_of_a_recipe():
    assert [setting.name for setting in fields(Recipe)] == list(RECIPE_SETTINGS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "dora"}, "method is lora or qlora or full"),
        ({"r": 0}, "r lies between"),
        ({"r": "8"}, "r is of type"),
        ({"epochs": 1.5}, "epochs is of type"),
        ({"target_modules": "q_proj"}, "is a list of names"),
    ],
)
def test_a_recipe_with_values_that_nothing_has_is_refused_before_it_is_queued(settings, words):
    with pytest.raises(Invalid, match=words):
        check_settings(order(recipe=settings).recipe)


def test_a_default_order_has_the_seed_of_every_other_way_to_train():
    assert order().seed == Request("elena").seed == DEFAULT_SEED


def test_jobs_of_one_base_have_one_priority():
    assert priority_of("a/b") == priority_of("a/b") != priority_of("a/c")
    assert all(1 <= priority_of(name) < 2**31 for name in (None, "tiny", "a/b"))


def test_a_key_gives_the_same_name():
    assert job_id(order()) != job_id(order())
    assert job_id(order(), "k") == job_id(order(), "k") != job_id(order("marcus"), "k")


# ---- The queue ------------------------------------------------------------------------------------------------------------------------------


def test_two_prepare_the_queue_at_once(tmp_path, database_url):
    queues = [JobQueue.open(tmp_path / "home", database_url) for _ in range(2)]
    together(*(queue.prepare for queue in queues))
    assert queues[1].list() == []
    for queue in queues:
        queue.dispose()


def test_a_queue_that_was_not_prepared_says_so(tmp_path):
    queue = JobQueue.open(tmp_path / "home", "sqlite://")
    with pytest.raises(Unavailable, match="not made yet"):
        queue.enqueue(order())
    queue.board.prepare()
    assert queue.board.jobs() == []  # nothing was put down
    queue.dispose()


def test_the_life_of_a_job_without_a_worker(queue):
    job = queue.enqueue(order(base="tiny", wave="spring"))
    assert job.startswith("build-elena-")
    found = queue.status(job)
    assert (found.state, found.step, found.error, found.executor, found.finished_at) == ("queued", None, None, None, None)
    queue.board.progress(job, "step", {"step": "train"})
    assert queue.status(job).step == "train"
    with pytest.raises(Conflict, match="only a failed or cancelled"):
        queue.retry(job)
    assert queue.cancel(job).state == "cancelled"
    assert queue.cancel(job).state == "cancelled"
    assert queue.status(job).finished_at is not None
    assert queue.retry(job) == job
    assert queue.status(job).state == "queued"
    assert [s.job for s in queue.list("elena", wave="spring")] == [job]
    assert queue.list("marcus") == []
    [entry] = queue.client.list_workflows(workflow_ids=[job])
    assert (entry.queue_name, entry.app_version, entry.priority) == ("gpu", job_queue.APP_VERSION, priority_of("tiny"))
    assert BuildOrder.from_json(entry.input["args"][0]) == order(base="tiny", wave="spring")
    with pytest.raises(NotFound):
        queue.cancel("nothing")
    with pytest.raises(Invalid, match="gpu, cpu"):
        queue.enqueue(order(), queue="tpu")


def test_the_same_key_gives_one_job_even_at_once(queue):
    jobs = together(*(lambda: queue.enqueue(order(), key="k") for _ in range(2)))
    assert jobs[0] == jobs[1]
    assert len(queue.list()) == 1
    with pytest.raises(Conflict, match="other settings"):
        queue.enqueue(order(seed=1), key="k")


def test_a_job_that_never_entered_the_queue_can_be_retried(small, monkeypatch):
    job = job_id(order())
    small.board.put_job(job, order().as_json(), "tester", None, "cpu")
    assert small.status(job).state == "queued"  # perhaps just about to enter
    with pytest.raises(Conflict, match="just entering the queue"):
        small.cancel(job)
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: 0.0)  # a machine whose clock is off asks the database how old a row is
        assert small.status(job).state == "queued"
    monkeypatch.setattr(job_queue, "_ENTERING_S", -1.0)
    assert small.status(job).state == "failed"
    assert "before the job entered the queue" in small.status(job).error
    small.retry(job)
    assert small.status(job).state == "queued"
    assert [w.queue_name for w in small.client.list_workflows(workflow_ids=[job])] == ["cpu"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Conflict("The terms changed."), "The terms changed."),
        (RegistryError("in our own words"), "in our own words"),
        (KeyError("/home/anna/secret"), "unforeseen: KeyError; the worker's log says more"),
        (OSError(2, "No such file", "/home/anna/x"), "unforeseen: FileNotFoundError; the worker's log says more"),
    ],
)
def test_what_nobody_foresaw_is_told_by_its_kind_alone(small, error, said):
    """As DBOS would record it: the client reads back a name and a sentence."""
    from dbos._serialization import PortableWorkflowError

    assert told_outside(error) == said
    [entry] = small.client.list_workflows(workflow_ids=[small.enqueue(order())])
    entry.status, entry.error = "ERROR", PortableWorkflowError(str(error), type(error).__name__)
    assert job_queue._sentence(entry) == said
