"""The rival's side of the benchmark: MLflow in an environment of its own (.venv-mlflow), its command line and its alias look-up."""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
VENV = REPO / ".venv-mlflow"
PINS = (
    "mlflow==3.17.2",
    "psycopg[binary]",
    "uvloop",
)  # the release whose figures the design quotes; uvloop makes it faster, so it is its best
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true"}


def install() -> Path:
    """The folder with MLflow's commands, installed where missing."""
    if not (VENV / ".done").exists() or (VENV / ".done").read_text() != " ".join(PINS):
        print("installing MLflow beside (.venv-mlflow) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", *PINS], check=True)
        (VENV / ".done").write_text(" ".join(PINS))
    return VENV / "bin"


def help_times(commands: dict[str, Sequence[str]], rounds: int = 5) -> dict[str, float]:
    """Median wall seconds of each command, in turns after one warm-up, so that a drift of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=os.environ | ENVIRONMENT)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def free_port() -> int:
    """A port on loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(database_url: str, folder: Path) -> Iterator[str]:
    """MLflow's server with one worker on a database; yields its address."""
    port = free_port()
    command = [str(install() / "mlflow"), "server", "--backend-store-uri", database_url, "--default-artifact-root", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, folder / "mlflow.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(process.pid, 15)
        process.wait(timeout=30)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                break
            time.sleep(0.5)
    raise RuntimeError(f"MLflow did not start: {log.read_text(errors='replace')[-1500:]}")


def fill(address: str, models: int, versions: int) -> None:
    """Registered models with versions, the last one under the alias 'live': far fewer than the 800 x 10 of our side, which is in MLflow's favour."""
    for number in range(models):
        name = f"advisor-{number}"
        _call(address, "registered-models/create", {"name": name})
        for _ in range(versions):
            _call(address, "model-versions/create", {"name": name, "source": "s3://bucket/key"})
        _call(address, "registered-models/alias", {"name": name, "alias": "live", "version": str(versions)})


def _call(address: str, path: str, body: dict[str, str]) -> None:
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60):
        pass


def alias_url(address: str, number: int = 0) -> str:
    """MLflow's nearest counterpart of a Source Card: which version an alias means."""
    return f"{address}/api/2.0/mlflow/registered-models/alias?name=advisor-{number}&alias=live"
