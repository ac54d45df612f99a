"""Two real uvicorn processes over one catalogue: what one changes, the other shows; and what a raw socket may send."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import factories
import pytest
from api_kit import public_elena

from registry import tokens
from registry.job_queue import BuildOrder, JobQueue

CARD = "/advisors/elena/sources"
NOTICED = 0.1  # seconds in which a change must have reached the other processes


class Worker:
    """One process of the service."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process, self.port = process, port

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, dict[str, Any]]:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def number(self) -> int | None:
        version = self.ask("GET", CARD)[1]["version"]
        return None if version is None else version["number"]

    def raw(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.settimeout(10)
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextlib.contextmanager
def workers(count: int, environment: dict[str, str]) -> Iterator[list[Worker]]:
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(count):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            command = [sys.executable, "-m", "uvicorn", "--factory", "registry.app:create", "--port", str(port), "--log-level", "warning"]
            process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE)
            stack.callback(_end, process)
            started.append(Worker(process, port))
        for worker in started:
            _wait_for(worker)
        yield started


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.communicate(timeout=20)


def _wait_for(worker: Worker) -> None:
    for _ in range(600):
        assert worker.process.poll() is None, worker.process.stderr and worker.process.stderr.read().decode()
        with contextlib.suppress(OSError):
            if worker.ask("GET", "/health")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError("a worker did not answer")


@pytest.fixture
def environment(tmp_path, database_url) -> dict[str, str]:
    return {"REGISTRY_HOME": str(tmp_path), "REGISTRY_DATABASE_URL": database_url, "REGISTRY_ARTIFACTS": str(tmp_path / "artifacts")}


def test_two_workers_never_disagree_for_long(db, store, environment):
    public_elena(db, store)
    factories.add_version(db, store, seed=2)
    with db.transaction() as session:
        token = tokens.create(session, "promoter", ("promote",), actor="tester").secret
    with workers(2, environment) as (one, other):
        for worker in (one, other):
            for _ in range(3):
                assert worker.number() == 1
        time.sleep(0.5)  # both listen by now
        for turn in range(10):
            mover, reader = (one, other) if turn % 2 == 0 else (other, one)
            wanted = 2 if turn % 2 == 0 else 1
            assert mover.ask("PUT", "/advisors/elena/aliases/live", {"version": wanted}, token)[0] == 200
            assert mover.number() == wanted
            time.sleep(NOTICED)
            assert reader.number() == wanted
        # The command line is one more process.
        status, moved = one.ask("POST", "/advisors/elena/aliases/live/undo", {}, token)
        assert (status, moved["after"]) == (200, 2)
        with db.transaction() as session:
            from registry import promotion, versions

            promotion.promote(session, store, versions.resolve(session, "elena@1"), actor="command line")
        time.sleep(NOTICED)
        assert (one.number(), other.number()) == (1, 1)


def read_until(stream: "http.client.HTTPResponse", text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        line = stream.readline()
        assert line, seen
        seen += line
    return seen


def test_a_server_that_is_asked_to_stop_does_not_wait_for_who_follows_a_job(make_sqlite, tmp_path, store):
    pytest.importorskip("dbos")
    from registry.db import Database

    url = make_sqlite()
    db = Database(url)
    public_elena(db, store)
    with db.transaction() as session:
        token = tokens.create(session, "reader", ("read",), actor="tester").secret
    db.dispose()
    queue = JobQueue.open(tmp_path, url)
    queue.prepare()
    job = queue.enqueue(BuildOrder("elena", "tester"))
    for step in ("curate", "train"):
        queue.board.progress(job, "step", {"step": step})
    settings = {"REGISTRY_HOME": str(tmp_path), "REGISTRY_DATABASE_URL": url, "REGISTRY_ARTIFACTS": str(tmp_path / "artifacts")}
    with workers(1, settings) as (worker,):
        connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
        connection.request("GET", f"/advisors/elena/jobs/{job}/events", headers={"Authorization": f"Bearer {token}", "Last-Event-ID": "1"})
        stream = connection.getresponse()
        assert (stream.status, stream.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        seen = read_until(stream, b'"train"')
        assert b"id: 2" in seen
        assert b"id: 1\n" not in seen
        queue.board.progress(job, "step", {"step": "gate"})  # it follows, without buffering
        read_until(stream, b'"gate"')
        begun = time.monotonic()
        worker.process.terminate()
        assert stream.read().count(b"event:") == 0  # the stream ended whole, but its job did not
        worker.process.wait(timeout=20)
        assert time.monotonic() - begun < 8
        connection.close()
    queue.dispose()


def test_raw_bytes_never_make_it_stumble(make_sqlite, tmp_path, store):
    from registry.db import Database

    url = make_sqlite()
    db = Database(url)
    public_elena(db, store)
    settings = {"REGISTRY_HOME": str(tmp_path), "REGISTRY_DATABASE_URL": url, "REGISTRY_ARTIFACTS": str(tmp_path / "artifacts")}
    with workers(1, settings) as (worker,):
        host = f"Host: 127.0.0.1:{worker.port}\r\n".encode()
        for line in (
            b"GET /advisors/el\x00ena/sources HTTP/1.1\r\n",
            b"GET /advisors/\xff\xfe/sources HTTP/1.1\r\n",
            b"GET /advisors/%ff%fe/sources HTTP/1.1\r\n",
            b"GET /advisors/elena/sources?alias=%00&cursor=%ff HTTP/1.1\r\n",
            b"GET /advisors/elena/sources?alias=\xff HTTP/1.1\r\n",
            b"GET http://evil.example/advisors/elena/sources HTTP/1.1\r\n",
            b"GET //evil.example/advisors HTTP/1.1\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\n",
            b"BREW /coffee HTTP/1.1\r\n",
            b"GET /advisors/elena/sources HTTP/1.1\r\nIf-None-Match: \x00\r\n",
            b"GET /advisors HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\x80\r\n",
            b"GET /advisors HTTP/1.1\r\nAuthorization: Bearer a\x00b\r\n",
            b"POST /advisors HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n",
            b"POST /advisors HTTP/1.1\r\nContent-Length: -1\r\n",
            b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n",
        ):
            answer = worker.raw(line + host + b"Connection: close\r\n\r\n")
            status = answer.split(b" ", 2)[1] if answer else b"(closed)"
            assert status == b"(closed)" or (status[:1] in (b"2", b"4")), (line[:80], answer[:200])
            assert b"Traceback" not in answer
        assert worker.raw(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400")  # no Host
        assert worker.ask("GET", "/health")[0] == 200
        assert worker.number() == 1
    db.dispose()


def test_a_server_on_a_wrong_revision_does_not_start(tmp_path):
    environment = os.environ | {"REGISTRY_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "uvicorn", "--factory", "registry.app:create", "--port", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "is empty: expected schema revision" in done.stderr
