"""Jobs over HTTP: orders, states, and the stream. No worker runs; what a worker would say is appended by the tests."""

import gc
import json
import shutil
import threading
import time

import factories
import pytest
from api_kit import Api, pair, problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import bases
from registry.api import jobs as routes
from registry.db import Database
from registry.job_queue import BuildOrder, JobQueue
from registry.terms import FORUM, terms_digest, terms_for

pytest.importorskip("dbos")
TERMS = terms_digest(terms_for("anthropic"))
BASES = [
    ("org/model", "1" * 40, "hub"),
    ("org/model", "2" * 40, "hub"),
    ("org/unpinned", None, "hub"),
    ("adapter-registry/tiny-mistral", "3" * 40, "builtin"),
    ("local/mistral", "4" * 40, "local"),
]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A folder with the tables of jobs."""
    home = tmp_path_factory.mktemp("jobs")
    queue = JobQueue.open(home, "sqlite://")
    queue.prepare()
    queue.dispose()
    return home


def api_over(url, store, home):
    """The API over a catalogue with two advisors."""
    db = Database(url)
    made = Api(db, store, home=home)
    factories.add_advisor(db, "elena", aliases=("dr-elena",))
    factories.add_advisor(db, "marcus")
    factories.add_dataset(db, [pair("Why am I tired?")])
    with db.transaction() as session:
        for repo, revision, kind in BASES:
            bases.ensure(session, bases.BaseFacts(repo, revision, kind))
    return made


def close(made):
    if hasattr(made.app.state, "jobs"):
        made.app.state.jobs.dispose()
    made.db.dispose()


@pytest.fixture
def api(make_sqlite, store, tmp_path):
    made = api_over(make_sqlite(), store, tmp_path / "home")
    yield made
    close(made)


@pytest.fixture
def ready(make_sqlite, store, tmp_path, made_once):
    """The same with a queue that was prepared."""
    shutil.copytree(made_once, tmp_path / "home")
    made = api_over(make_sqlite(), store, tmp_path / "home")
    made.get("/workers")  # opens the queue
    yield made
    close(made)


@pytest.fixture
def shared_queue(make_postgres, store, tmp_path):
    """The same on Postgres."""
    made = api_over(make_postgres(), store, tmp_path / "home")
    made.get("/workers")
    made.app.state.jobs.prepare()
    yield made
    close(made)


def order(api, body=None, headers=None, path="/advisors/elena/builds"):
    response = api.post(path, body or {}, headers)
    assert response.status_code == 202, response.text
    return response.json()


def test_a_server_whose_queue_was_not_prepared_says_so(api):
    for response in (api.post("/advisors/elena/builds", {}), api.get("/advisors/elena/jobs"), api.get("/workers")):
        assert "registry init" in problem(response, 503, "unavailable")["hint"]


def test_a_server_without_the_engine_says_so(api, monkeypatch):
    monkeypatch.setattr("registry.job_queue.importlib.util.find_spec", lambda _name: None)
    body = problem(api.get("/advisors/elena/jobs"), 503, "unavailable")
    assert "adapter-registry[jobs]" in body["hint"]


def test_a_job_on_postgres(shared_queue, brisk):
    made = order(shared_queue)
    shared_queue.app.state.jobs.board.progress(made["id"], "step", {"step": "train"})
    assert shared_queue.post(f"/advisors/elena/jobs/{made['id']}/cancel").json()["state"] == "cancelled"
    seen = events_of(shared_queue.get(f"/advisors/elena/jobs/{made['id']}/events").text)
    assert [kind for _, kind, _ in seen] == ["step", "end"]
    assert [item["id"] for item in shared_queue.get("/advisors/elena/jobs").json()["items"]] == [made["id"]]


def test_a_build_is_ordered_seen_cancelled_and_retried(ready):
    response = ready.post("/advisors/dr-elena/builds", {"base": "tiny", "recipe": {"r": 8}, "seed": 7, "wave": "spring"})
    made = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/advisors/elena/jobs/{made['id']}"
    assert (made["state"], made["advisor"], made["kind"], made["queue"], made["wave"]) == ("queued", "elena", "build", "gpu", "spring")
    assert made["order"]["recipe"] == {"r": 8}
    assert made["actor"].endswith("(token 1)")
    jobs = ready.app.state.jobs
    [entry] = jobs.client.list_workflows(workflow_ids=[made["id"]])
    assert BuildOrder.from_json(entry.input["args"][0]).seed == 7
    jobs.board.progress(made["id"], "step", {"step": "train"})
    assert ready.get(f"/advisors/elena/jobs/{made['id']}").json()["step"] == "train"
    problem(ready.post(f"/advisors/elena/jobs/{made['id']}/retry"), 409, "conflict")
    for _ in range(2):
        assert ready.post(f"/advisors/elena/jobs/{made['id']}/cancel").json()["state"] == "cancelled"
    again = ready.post(f"/advisors/elena/jobs/{made['id']}/retry")
    assert (again.status_code, again.json()["state"]) == (202, "queued")


def test_the_same_key_gives_the_same_job_for_the_same_token(ready):
    key = {"idempotency-key": "nightly"}
    first = order(ready, {"seed": 1}, ready.root | key)
    assert order(ready, {"seed": 1}, ready.root | key)["id"] == first["id"]
    problem(ready.post("/advisors/elena/builds", {"seed": 2}, ready.root | key), 409, "conflict")
    other = ready.token("write", "promote")
    assert order(ready, {"seed": 1}, other | key)["id"] != first["id"]
    assert order(ready, {"seed": 1})["id"] != first["id"]


def test_who_may_order_what(ready):
    bound = ready.token("read", "write", advisor="elena")
    assert "scope promote" in problem(ready.post("/advisors/elena/builds", {}, bound), 403)["detail"]
    made = order(ready, {"promote": "never"}, bound)
    hidden = order(ready)
    foreign = ready.token("read", "write", "promote", advisor="marcus")
    for name in (made["id"], "build-elena-000000000000"):
        path = f"/advisors/marcus/jobs/{name}"
        for response in (ready.get(path, foreign), ready.get(f"{path}/events", foreign), ready.post(f"{path}/cancel", None, foreign)):
            assert problem(response, 404)["detail"] == f"'marcus' has no job '{name}'."
    assert ready.get("/advisors/marcus/jobs", foreign).json()["items"] == []
    ready.post(f"/advisors/elena/jobs/{hidden['id']}/cancel")
    problem(ready.post(f"/advisors/elena/jobs/{hidden['id']}/retry", None, bound), 403)
    problem(ready.get("/workers", bound), 403)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"base": "/models/mistral"}, 422, "A base is tiny"),
        ({"base": "nobody/knows"}, 422, "A base is tiny"),
        ({"recipe": {"chat_template": "/etc/passwd"}}, 422, "no path and no address"),
        ({"recipe": {"r": {"b": 1}}}, 422, "a number, a short text"),
        ({"recipe": {"nonsense": 1, "method": "dora"}}, 422, "no setting 'nonsense'"),
        ({"seed": 2**31}, 422, "form that this address expects"),
        ({"base": "mistralai/Mistral-7B-Instruct-v0.3@" + "a" * 40}, 422, "registered revision"),
        ({"base": "local/mistral"}, 422, "folder of one machine"),
        ({"dataset": "sha256:" + "0" * 64}, 404, "has no dataset"),
        ({"dataset": "../x"}, 422, "A digest is"),
        ({"examples": 5}, 422, "a person's word"),
        ({"examples": 5, "accept_terms": "sha256:" + "0" * 64}, 422, "present terms"),
        ({"examples": 5, "accept_terms": TERMS, "pipeline": {"documents": ["a.pdf"]}}, 422, "command line alone"),
        ({"examples": 5, "accept_terms": TERMS, "pipeline": {"provider": "acme"}}, 422, "A provider is"),
        ({"examples": 5, "accept_terms": TERMS, "pipeline": {"provider": ["a"]}}, 422, "A provider is"),
        ({"examples": 5, "accept_terms": TERMS, "pipeline": {"provider": {}}}, 422, "A provider is"),
        ({"folder": "/tmp"}, 422, "form that this address expects"),
        ({"queue": "tpu"}, 422, "form that this address expects"),
        ({"alias": "7"}, 422, "cannot name an alias"),
        ({"wave": "a b"}, 422, "1-63 characters"),
    ],
)
def test_what_an_order_may_not_say(api, body, status, words):
    assert words in problem(api.post("/advisors/elena/builds", body), status)["detail"]


def test_an_advisor_without_data_needs_pairs_and_a_retired_one_gets_none(ready):
    problem(ready.post("/advisors/marcus/builds", {}), 404)
    assert order(ready, {"examples": 5, "accept_terms": TERMS}, path="/advisors/marcus/builds")["order"]["examples"] == 5
    assert order(ready, {"base": "mistralai/Mistral-7B-Instruct-v0.3"})["order"]["base"] == "mistralai/Mistral-7B-Instruct-v0.3"
    ready.post("/advisors/marcus/retire", {"reason": "left"})
    problem(ready.post("/advisors/marcus/builds", {}), 410, "gone")


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("tiny", "tiny"),
        ("org/model", "org/model@" + "2" * 40),
        ("org/model@" + "1" * 40, "org/model@" + "1" * 40),
        ("org/unpinned", "org/unpinned"),
        ("adapter-registry/tiny-mistral", "tiny"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
        (None, None),
    ],
)
def test_an_order_names_the_revision_that_the_catalogue_knows(api, asked, taken):
    with api.db.read() as session:
        assert routes._pinned_base(session, asked) == taken


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
SETTINGS = st.dictionaries(st.sampled_from(["provider", "forum", "documents", "thresholds", "model"]), JSON, max_size=3)
BODY = st.fixed_dictionaries(
    {"accept_terms": st.just(TERMS) | JSON},
    optional={
        "examples": st.just(5) | JSON,
        "pipeline": SETTINGS | JSON,
        "recipe": st.dictionaries(st.sampled_from(["r", "method", "x"]), JSON, max_size=2) | JSON,
        **dict.fromkeys(("base", "dataset", "seed", "force", "promote", "alias", "wave", "queue"), JSON),
    },
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(BODY, st.sampled_from(["builds", "pipelines"]))
def test_no_body_makes_it_stumble(ready, body, what):
    response = ready.post(f"/advisors/elena/{what}", body)
    assert response.status_code in (202, 400, 404, 422), (body, response.text)


def test_a_pipeline_is_ordered_after_its_terms_were_read(ready):
    shown = ready.get("/pipelines/terms", params={"forum": True}).json()
    assert shown["text"].endswith(FORUM)
    body = {"examples": 20, "pipeline": {"forum": True}, "accept_terms": shown["sha256"]}
    made = order(ready, body, path="/advisors/elena/pipelines")
    assert (made["kind"], made["queue"], made["order"]["promote"], made["order"]["terms_sha256"]) == (
        "pipeline",
        "cpu",
        "never",
        shown["sha256"],
    )
    problem(ready.post("/advisors/elena/pipelines", body | {"accept_terms": TERMS}), 422)
    problem(ready.post("/advisors/elena/pipelines", {"accept_terms": TERMS}), 422)
    problem(ready.get("/pipelines/terms", params={"provider": "acme"}), 422)


def test_jobs_come_in_pages(ready):
    names = [order(ready, {"seed": seed, "wave": "spring" if seed % 2 else None})["id"] for seed in range(5)]
    found, link = [], "/advisors/elena/jobs?limit=2"
    while link:
        page = ready.get(link).json()
        found, link = found + [item["id"] for item in page["items"]], page["next"]
    assert found == names[::-1]
    assert [item["id"] for item in ready.get("/advisors/elena/jobs?wave=spring").json()["items"]] == [names[3], names[1]]
    problem(ready.get("/advisors/elena/jobs?cursor=x"), 422)


def test_workers_are_shown_to_admins(ready):
    ready.app.state.jobs.board.beat("box-1-abc", {"host": "box"})
    [worker] = ready.get("/workers").json()
    assert (worker["executor"], worker["facts"]) == ("box-1-abc", {"host": "box"})
    assert worker["age_s"] < 60


# ---- The stream -----------------------------------------------------------------------------------------------------------------------------


def events_of(text):
    """What a stream said: (id, event, data) of each event."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "event" in fields:
            found.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
    return found


@pytest.fixture
def brisk(monkeypatch):
    monkeypatch.setattr(routes, "POLL_S", 0.05)
    monkeypatch.setattr(routes, "STILL_HERE_S", 0.2)


def test_a_stream_follows_a_job_to_its_end(ready, brisk):
    job = order(ready)["id"]
    board = ready.app.state.jobs.board
    board.progress(job, "step", {"step": "train"})

    def work():
        time.sleep(0.5)
        board.progress(job, "train", {"loss": 1.5, "text": "two\nlines"})
        ready.app.state.jobs.cancel(job)
        board.progress(job, "step", {"step": "left"})

    worker = threading.Thread(target=work)
    worker.start()
    path = f"/advisors/elena/jobs/{job}/events"
    response = ready.get(path)
    worker.join()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert ": still here\n\n" in response.text
    seen = events_of(response.text)
    assert [(number, kind) for number, kind, _ in seen] == [("1", "step"), ("2", "train"), ("3", "step"), (None, "end")]
    assert seen[1][2]["body"] == {"loss": 1.5, "text": "two\nlines"}
    assert seen[3][2]["state"] == "cancelled"
    rest = events_of(ready.get(path, ready.root | {"last-event-id": "2"}).text)
    assert [(number, kind) for number, kind, _ in rest] == [("3", "step"), (None, "end")]
    assert ready.get(path, ready.root | {"last-event-id": "3"}).status_code == 204
    problem(ready.get(path, ready.root | {"last-event-id": "-1"}), 422)
    assert ready.app.state.streams.open == 0


def test_a_stream_ends_after_its_time_and_there_are_only_so_many(ready, brisk, monkeypatch):
    job = order(ready)["id"]
    monkeypatch.setattr(routes, "STREAM_S", 0.3)
    path = f"/advisors/elena/jobs/{job}/events"
    text = ready.get(path).text
    assert text.startswith("retry: ")
    assert events_of(text) == []  # the job waits on; the client comes back
    monkeypatch.setattr(routes, "MAX_STREAMS", 0)
    assert problem(ready.get(path), 503)["detail"].startswith("This process serves 0 streams")


def test_no_more_streams_are_open_than_allowed_however_they_come(ready, brisk, monkeypatch):
    monkeypatch.setattr(routes, "MAX_STREAMS", 3)
    job = order(ready)["id"]
    told, gate = [], threading.Barrier(8)

    def follow():
        gate.wait()
        told.append(ready.get(f"/advisors/elena/jobs/{job}/events").status_code)

    readers = [threading.Thread(target=follow) for _ in range(8)]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + 20
    while len(told) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    refused = list(told)
    ready.app.state.jobs.cancel(job)  # ends those that are open
    for reader in readers:
        reader.join()
    assert refused == [503] * 5
    assert sorted(told) == [200] * 3 + [503] * 5
    assert ready.app.state.streams.open == 0


def test_a_stream_that_was_never_sent_does_not_count_for_ever(ready):
    streams = routes.Streams()
    made = routes._Stream(streams, ready.app.state.jobs, "build-elena-1", 0)
    assert streams.open == 1
    del made
    gc.collect()
    assert streams.open == 0


def test_a_stream_holds_no_connection_while_it_waits(ready, monkeypatch):
    monkeypatch.setattr(routes, "STREAM_S", 1.0)
    job = order(ready)["id"]
    jobs = ready.app.state.jobs
    reader = threading.Thread(target=lambda: ready.get(f"/advisors/elena/jobs/{job}/events"))
    reader.start()
    taken = []
    for _ in range(30):
        time.sleep(0.02)
        taken.append(
            jobs.board._db.engine.pool.checkedout() + ready.db.engine.pool.checkedout() + jobs.client._sys_db.engine.pool.checkedout()
        )
    reader.join()
    assert taken.count(0) > len(taken) / 2
