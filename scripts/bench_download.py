"""Download of a 256 MiB file: our route (one uvicorn worker, uvloop, httptools) against nginx (one worker, sendfile), the same file, one client.

Prints rates, the ratio of medians, and how much memory our server needed on top of what it held before. Rounds are interleaved, so that a busy
machine slows both. Two clients: curl into /dev/null, as people download, and a bare socket that reads into one buffer, which leaves more of the
work to the servers. nginx must be installed (Debian: apt-get install nginx-light); without it our own rates are printed and the ratio is missing.
Run: python scripts/bench_download.py
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
SIZE = 256 * MIB
ROUNDS = 9
CONFIG = """
worker_processes 1; daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure; rates in MiB/s, memory in MiB. `ratio_*` is ours divided by nginx's, None without nginx."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-download-")))
        digest = _store_blob(folder / "store")
        ours = stack.enter_context(_ours(folder / "store", digest))
        targets = {
            "registry": (ours.port, "/zero-copy"),
            "registry_chunks": (ours.port, "/chunks"),
            "starlette_file_response": (ours.port, "/stock"),
        }
        if shutil.which("nginx", path=_path()):
            os.link(_blob_path(folder / "store", digest), folder / "blob.bin")
            targets["nginx"] = (stack.enter_context(_nginx(folder)), "/blob.bin")
        else:
            print("nginx is not installed, so there is no ratio; on Debian: apt-get install nginx-light", file=sys.stderr)
        memory = _extra_memory(ours)
        clients = {"socket": _by_socket} | ({"curl": _by_curl} if shutil.which("curl") else {})
        result: dict[str, Any] = {"size_mib": SIZE // MIB, "rounds": rounds, "extra_memory_mib": memory}
        for client, fetch in clients.items():
            result |= _compare(client, fetch, targets, rounds)
        return result


def _compare(client: str, fetch: Callable[[int, str], float], targets: dict[str, tuple[int, str]], rounds: int) -> dict[str, Any]:
    """Medians of interleaved rounds, and the ratios to nginx."""
    rates: dict[str, list[float]] = {name: [] for name in targets}
    for target in targets.values():
        fetch(*target)  # warms the page cache, and what a server does only once
    for _ in range(rounds):
        for name, target in targets.items():
            rates[name].append(fetch(*target))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    nginx = medians.get("nginx")
    found: dict[str, Any] = {f"{client}_{name}_mib_s": round(rate) for name, rate in medians.items()}
    for name, rate in medians.items():
        if name != "nginx":
            found[f"ratio_{client}_{name}"] = round(rate / nginx, 2) if nginx else None
    return found


# ---- Servers --------------------------------------------------------------------------------------------------------------------------------


class _Server:
    """A process of ours and the port it listens on."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port


@contextlib.contextmanager
def _running(command: list[str], port: int, environment: dict[str, str]) -> Iterator[_Server]:
    """Start, wait until the port answers, and end that one process."""
    process = subprocess.Popen(command, env=os.environ | environment)
    try:
        _wait_for(port, process)
        yield _Server(process, port)
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def _ours(store: Path, digest: str) -> Iterator[_Server]:
    port = _free_port()
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(port)]
    with _running(command, port, {"BENCH_STORE": str(store), "BENCH_DIGEST": digest}) as server:
        yield server


@contextlib.contextmanager
def _nginx(folder: Path) -> Iterator[int]:
    port = _free_port()
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port), encoding="utf-8")
    folder.chmod(0o755)  # nginx's worker may run as another user
    with _running(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")], port, {"PATH": _path()}):
        yield port


def _path() -> str:
    """PATH with the folders where Debian puts servers."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _serve(port: int) -> None:
    """Our server: the blob response with zero copy, without it, and Starlette's own FileResponse."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route

    from registry.api.downloads import ZeroCopy, blob_response
    from registry.artifacts import Blob, open_store

    folder, digest = os.environ["BENCH_STORE"], os.environ["BENCH_DIGEST"]
    store, blob = open_store(folder), Blob(digest, SIZE)

    async def ours(request: Request) -> Response:
        return await blob_response(request, store, blob, filename="adapter_model.safetensors")

    async def chunks(request: Request) -> Response:
        request.scope["extensions"] = {}
        return await ours(request)

    async def stock(_: Request) -> Response:
        return FileResponse(_blob_path(Path(folder), digest))

    app = ZeroCopy(Starlette(routes=[Route("/zero-copy", ours), Route("/chunks", chunks), Route("/stock", stock)]))
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


def _store_blob(folder: Path) -> str:
    """A store with one random blob; its digest."""
    from registry.artifacts import open_store

    with open_store(folder).writer() as writer:
        for _ in range(SIZE // MIB):
            writer.write(os.urandom(MIB))
        return writer.commit().digest


def _blob_path(store: Path, digest: str) -> Path:
    value = digest.removeprefix("sha256:")
    return store / "blobs" / "sha256" / value[:2] / value[2:]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} before it answered.")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"Nothing answers on port {port}.")


# ---- Clients --------------------------------------------------------------------------------------------------------------------------------


def _by_socket(port: int, path: str) -> float:
    """MiB/s of one download into a reused buffer."""
    buffer = bytearray(MIB)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        started = time.perf_counter()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = 0
        while got := connection.recv_into(buffer):
            received += got
        seconds = time.perf_counter() - started
    if received < SIZE:
        raise RuntimeError(f"{path} gave {received} bytes, expected {SIZE} and headers.")
    return SIZE / MIB / seconds


def _by_curl(port: int, path: str) -> float:
    """MiB/s of one download by curl."""
    command = [
        "curl",
        "--silent",
        "--fail",
        "--noproxy",
        "*",
        "-o",
        os.devnull,
        "-w",
        "%{speed_download}",
        f"http://127.0.0.1:{port}{path}",
    ]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / MIB


def _extra_memory(server: _Server) -> dict[str, float]:
    """By route: our server's peak resident memory during one download, less what it held before. Linux; empty elsewhere."""
    status, clear = Path(f"/proc/{server.process.pid}/status"), Path(f"/proc/{server.process.pid}/clear_refs")
    if not clear.exists():
        return {}
    found = {}
    for name, path in {"registry": "/zero-copy", "registry_chunks": "/chunks"}.items():
        clear.write_text("5", encoding="ascii")  # the peak starts anew at the present size (man 5 proc)
        before = _kib(status, "VmRSS")
        _by_socket(server.port, path)
        found[name] = round((_kib(status, "VmHWM") - before) / 1024, 1)
    return found


def _kib(status: Path, field: str) -> int:
    line = next(row for row in status.read_text(encoding="ascii").splitlines() if row.startswith(field + ":"))
    return int(line.split()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="Interleaved rounds per client.")
    arguments = parser.parse_args()
    if arguments.serve:
        _serve(arguments.serve)
    else:
        print(json.dumps(run(arguments.rounds), indent=2))
