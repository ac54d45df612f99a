"""Source Cards per second: our server against a bare Starlette route that returns the same bytes with as many headers; one uvicorn worker each.

The registry holds 800 public advisors with 10 versions and 100 sources each (scripts/bench_data.py). Rounds are interleaved, so that a busy machine slows
both; the ratio is that of medians. The client is wrk (Debian: apt-get install wrk). `requests_s` is for one advisor's card, `requests_s_many` for the cards of
all advisors in turn, the way a site would ask. Cold figures are cards that nothing has cached, one after the other.
Run: python scripts/bench_card.py [--postgres URL]
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SLUG = "advisor-0001"
ROUNDS, SECONDS, CONNECTIONS = 5, 3, 16
MANY = """
local n = 0
request = function()
  n = n % ADVISORS + 1
  return wrk.format("GET", string.format("/advisors/advisor-%04d/sources", n))
end
"""


def run(database_url: str | None = None, *, rounds: int = ROUNDS, advisors: int = 800) -> dict[str, Any]:
    """Measure on SQLite, or on the Postgres at `database_url` (an empty database). `ratio*` is ours divided by bare Starlette's."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian: apt-get install wrk")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-card-")))
        url = database_url or f"sqlite:///{folder / 'catalogue.db'}"
        seconds = _fill(url, advisors)
        ours = stack.enter_context(_server(["--factory", "registry.app:create"], _environment(folder, url)))
        cold = _cold(ours, advisors)
        plain = _fetch(ours, f"/advisors/{SLUG}/sources")
        squeezed = _fetch(ours, f"/advisors/{SLUG}/sources", gzip=True)
        for name, (headers, body) in (("plain", plain), ("gzip", squeezed)):
            (folder / f"{name}.body").write_bytes(body)
            (folder / f"{name}.headers").write_text(json.dumps(headers), encoding="utf-8")
        bare = stack.enter_context(
            _server(["--factory", "bench_card:bare"], {"BENCH_FOLDER": str(folder), "PYTHONPATH": str(Path(__file__).parent)})
        )
        script = folder / "many.lua"
        script.write_text(MANY.replace("ADVISORS", str(advisors)), encoding="utf-8")
        found = _compare({"": ours, "_bare": bare}, rounds, script)
    return {
        "database": "postgres" if database_url else "sqlite",
        "filled_in_s": round(seconds),
        "body_bytes": len(plain[1]),
        "gzip_bytes": len(squeezed[1]),
        "headers": len(plain[0]),
        "cold_ms": cold,
        **found,
    }


def _compare(servers: dict[str, int], rounds: int, script: Path) -> dict[str, Any]:
    """Rates and ratios: one card plain, one card gzipped, all cards in turn plain."""
    kinds: dict[str, list[str]] = {"": [], "_gzip": ["-H", "Accept-Encoding: gzip"], "_many": ["-s", str(script)]}
    rates: dict[tuple[str, str], list[float]] = {(kind, server): [] for kind in kinds for server in servers}
    for _ in range(rounds):
        for (kind, server), values in rates.items():
            values.append(wrk(f"http://127.0.0.1:{servers[server]}/advisors/{SLUG}/sources", kinds[kind]))
    found: dict[str, Any] = {}
    for kind in kinds:
        ours, bare = (statistics.median(rates[kind, server]) for server in servers)
        found |= {f"requests_s{kind}": round(ours), f"requests_s{kind}_bare": round(bare), f"ratio{kind}": round(ours / bare, 2)}
    return found


def wrk(url: str, more: list[str], seconds: int = SECONDS) -> float:
    """Requests per second of one wrk run; stops where an answer is no success."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *more, url]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in report:
        raise SystemExit(report)
    match = re.search(r"Requests/sec:\s+([0-9.]+)", report)
    assert match is not None, report
    return float(match.group(1))


def _cold(port: int, advisors: int) -> float:
    """Median milliseconds of a card that is asked for the first time. Every card is asked for once, so the rounds after this find them all cached."""
    times = []
    for number in range(1, advisors + 1):
        began = time.perf_counter()
        _fetch(port, f"/advisors/advisor-{number:04d}/sources")
        times.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(times), 1)


def _fetch(port: int, path: str, *, gzip: bool = False) -> tuple[dict[str, str], bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept-Encoding": "gzip" if gzip else "identity"})
    with urllib.request.urlopen(request, timeout=30) as response:
        # urllib asks for the connection to be closed and is told so; replayed by the other server that would halve its rate.
        own = {name: value for name, value in response.headers.items() if name.lower() not in ("date", "server", "connection")}
        return own, response.read()


def _fill(url: str, advisors: int) -> float:
    import bench_data

    from registry import schema
    from registry.db import Database

    began = time.perf_counter()
    database = Database(url)
    schema.upgrade(database)
    bench_data.build(database, advisors=advisors)
    database.dispose()
    return time.perf_counter() - began


def _environment(folder: Path, url: str) -> dict[str, str]:
    return {"REGISTRY_HOME": str(folder), "REGISTRY_DATABASE_URL": url, "REGISTRY_ARTIFACTS": str(folder / "artifacts")}


@contextlib.contextmanager
def _server(app: list[str], environment: dict[str, str]) -> Iterator[int]:
    """One uvicorn worker on a free port; gone when the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    process = subprocess.Popen([sys.executable, "-m", "uvicorn", *app, *options], env=os.environ | environment)
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit("a server ended before it answered")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.1)
    raise SystemExit("a server did not answer within 30 seconds")


def bare() -> Any:
    """The other server: Starlette, one route, the same bytes and headers."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    folder = Path(os.environ["BENCH_FOLDER"])
    kinds = {
        name: ((folder / f"{name}.body").read_bytes(), json.loads((folder / f"{name}.headers").read_text(encoding="utf-8")))
        for name in ("plain", "gzip")
    }

    async def card(request: Request) -> Response:
        body, headers = kinds["gzip" if "gzip" in request.headers.get("accept-encoding", "") else "plain"]
        return Response(body, headers=headers)

    return Starlette(routes=[Route("/advisors/{slug}/sources", card)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", metavar="URL", help="an empty Postgres database; without it SQLite in a temporary folder")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--advisors", type=int, default=800)
    given = parser.parse_args()
    print(json.dumps(run(given.postgres, rounds=given.rounds, advisors=given.advisors), indent=2))
