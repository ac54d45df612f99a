"""What every command shares: the Typer apps, the opened catalogue, tables and JSON, options that several take.

Nothing heavy is imported at the top: `registry --help` must answer at once, and no command but train may load torch (training itself runs in a process
of its own). Errors become a sentence, a hint and exit code 1 in one place, `Sentences`.
"""

import datetime as dt
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.errors import NotPromotable, Paused, RegistryError

if TYPE_CHECKING:
    from registry.artifacts import ArtifactStore
    from registry.db import Database
    from registry.settings import Settings


class Sentences(typer.core.TyperGroup):
    """Turns this product's errors into words on stderr; every other exception is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; end with exit code 1 and a sentence where this product or the system refused."""
        try:
            return super().invoke(ctx)
        except RegistryError as error:
            print(f"{'Paused' if isinstance(error, Paused) else 'Error'}: {error.message}", file=sys.stderr)
            if isinstance(error, NotPromotable):
                for reason in error.reasons:
                    print(f"  - {reason}", file=sys.stderr)
            if error.hint:
                print(f"Hint: {error.hint}", file=sys.stderr)
            # 128 + SIGTERM: what a shell or a supervisor expects of a command that was asked to leave and did
            raise typer.Exit(143 if isinstance(error, Paused) else 1) from None
        except BrokenPipeError:
            raise  # the reader had enough (| head); the framework ends quietly
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            print(f"Error: The system refused{where}: {error.strerror or error}.", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("Stopped. Nothing half-done is visible; run the command again.", file=sys.stderr)
            raise typer.Exit(130) from None


def group(help_text: str) -> typer.Typer:
    """A group of commands under one noun."""
    return typer.Typer(cls=Sentences, no_args_is_help=True, help=help_text, rich_markup_mode=None)


app = typer.Typer(
    cls=Sentences,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: it starts faster and the generated docs/cli.md stays readable
    pretty_exceptions_enable=False,
    help="Train, version, verify, promote and roll back LoRA adapters, and show which sources each was trained on.",
)
advisors_app = group("Advisors and their personas (system prompts).")
datasets_app = group("Training data, each pair with the sources it rests on.")
sources_app = group("The works that training pairs rest on.")
scores_app = group("Scores of a version.")
tokens_app = group("Bearer tokens of the API.")
bases_app = group("Base models that are known by name.")
jobs_app = group("Durable jobs: what workers do, did, and have still to do.")
db_app = group("The catalogue's schema.")
for name, group in {
    "advisors": advisors_app,
    "datasets": datasets_app,
    "sources": sources_app,
    "scores": scores_app,
    "bases": bases_app,
    "jobs": jobs_app,
    "tokens": tokens_app,
    "db": db_app,
}.items():
    app.add_typer(group, name=name)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the history.")]
AliasOption = Annotated[str, typer.Option("--alias", help="The alias to move.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen and change nothing.")]
ExpectOption = Annotated[
    int | None,
    typer.Option(
        "--expect", min=0, max=2**31 - 1, help="Move only if the alias points to this version now (0: to nothing); otherwise fail."
    ),
]
Ref = Annotated[str, typer.Argument(help="A version: elena@2, elena@live or sha256:...")]
AdvisorName = Annotated[str, typer.Argument(help="An advisor's slug or one of its other names.")]


@dataclass(frozen=True)
class Opened:
    """What a command works with."""

    settings: "Settings"
    db: "Database"
    store: "ArtifactStore"

    @property
    def actor(self) -> str:
        """Who does what the command does, as the history names them."""
        return self.settings.actor


@contextmanager
def open_catalogue(*, check: bool = True) -> Iterator[Opened]:
    """The catalogue and the store of this installation. Raises WrongRevision where the schema is not this program's."""
    from registry.artifacts import open_store
    from registry.db import Database
    from registry.settings import get_settings

    settings = get_settings()
    db = Database(settings.database, pool_size=settings.pool_size)
    try:
        if check:
            db.require_head()
        store = open_store(settings.artifact_location, s3_endpoint=settings.s3_endpoint, s3_region=settings.s3_region)
        yield Opened(settings, db, store)
    finally:
        db.dispose()


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")


def print_json(value: Any) -> None:
    """Print JSON, with times and dataclasses written out."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; folded to the terminal, unfolded into a pipe."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title) or None, title_justify="left", show_lines=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell_text(value)) for value in row))
    console = Console()
    # A pipe has no width: fold nothing there, so that grep and cut find whole lines.
    Console(width=console.width if console.is_terminal else 400).print(table)


def cell_text(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def show_facts(as_json: bool, value: Mapping[str, Any], title: str = "") -> None:
    """Print one thing's facts as a table or as JSON."""
    if as_json:
        print_json(value)
    else:
        table(title, ("", ""), [(key, item) for key, item in value.items() if not isinstance(item, (list, dict))])
