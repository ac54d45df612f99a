"""The command line `registry`: each command parses, calls jobs.* or registry.*, and prints a table, or JSON with --json.

Nothing heavy is imported at the top: `registry --help` must answer at once, and no command but train may load torch (training itself runs in a process
of its own). Errors become a sentence, a hint and exit code 1 in one place, `_Sentences`.
"""

import datetime as dt
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.errors import Invalid, NotPromotable, RegistryError

if TYPE_CHECKING:
    from registry.artifacts import ArtifactStore
    from registry.db import Database
    from registry.evaluations import ScoreDraft
    from registry.models import AdapterVersion, Evaluation
    from registry.promotion import Expected, Move
    from registry.settings import Settings


class _Sentences(typer.core.TyperGroup):
    """Turns this product's errors into words on stderr; every other exception is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RegistryError as error:
            print(f"Error: {error.message}", file=sys.stderr)
            if isinstance(error, NotPromotable):
                for reason in error.reasons:
                    print(f"  - {reason}", file=sys.stderr)
            if error.hint:
                print(f"Hint: {error.hint}", file=sys.stderr)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise  # the reader had enough (| head); the framework ends quietly
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            print(f"Error: The system refused{where}: {error.strerror or error}.", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("Stopped. Nothing half-done is visible; run the command again.", file=sys.stderr)
            raise typer.Exit(130) from None


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(cls=_Sentences, no_args_is_help=True, help=help_text, rich_markup_mode=None)


app = typer.Typer(
    cls=_Sentences,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: it starts faster and the generated docs/cli.md stays readable
    pretty_exceptions_enable=False,
    help="Train, version, verify, promote and roll back LoRA adapters, and show which sources each was trained on.",
)
advisors_app = _group("Advisors and their personas (system prompts).")
datasets_app = _group("Training data, each pair with the sources it rests on.")
sources_app = _group("The works that training pairs rest on.")
scores_app = _group("Scores of a version.")
tokens_app = _group("Bearer tokens of the API.")
db_app = _group("The catalogue's schema.")
for name, group in {
    "advisors": advisors_app,
    "datasets": datasets_app,
    "sources": sources_app,
    "scores": scores_app,
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
class _Opened:
    """What a command works with."""

    settings: "Settings"
    db: "Database"
    store: "ArtifactStore"

    @property
    def actor(self) -> str:
        return self.settings.actor


@contextmanager
def _opened(*, check: bool = True) -> Iterator[_Opened]:
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
        yield _Opened(settings, db, store)
    finally:
        db.dispose()


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title) or None, title_justify="left", show_lines=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    console = Console()
    # A pipe has no width: fold nothing there, so that grep and cut find whole lines.
    Console(width=console.width if console.is_terminal else 400).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _show(as_json: bool, value: Mapping[str, Any], title: str = "") -> None:
    if as_json:
        _print_json(value)
    else:
        _table(title, ("", ""), [(key, item) for key, item in value.items() if not isinstance(item, (list, dict))])


# -- the installation ---------------------------------------------------------------------------------------------------------------------


@app.command()
def init() -> None:
    """Create or upgrade the catalogue and print the first admin token, once."""
    from registry import schema, tokens

    with _opened(check=False) as opened:
        revision = schema.upgrade(opened.db)
        print(f"Catalogue {opened.db.place} at revision {revision}; files in {opened.store.location}.")
        with opened.db.transaction() as session:
            if tokens.any_exist(session):
                print("A token was made before; make another with: registry tokens create NAME --scope admin")
                return
            created = tokens.create(session, "first admin", tokens.SCOPES, actor=opened.actor, lifetime=dt.timedelta(days=90))
        print("The first token, good for 90 days and shown this once (send it as 'Authorization: Bearer ...'):")
        print(created.secret)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
) -> None:
    """Serve the API. Refuses to start on a catalogue of another schema revision."""
    import uvicorn

    with _opened():
        pass  # the check, once and in words, before any worker starts
    uvicorn.run("registry.app:create", factory=True, host=host, port=port, workers=workers, loop="auto", http="httptools", access_log=False)


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the catalogue's schema to this program's revision."""
    from registry import schema

    with _opened(check=False) as opened:
        print(f"Catalogue {opened.db.place} at revision {schema.upgrade(opened.db)}.")


@db_app.command("revision")
def db_revision() -> None:
    """Print the revision found and the one this program needs."""
    from registry.db import HEAD_REVISION

    with _opened(check=False) as opened:
        print(f"found {opened.db.revision() or 'none'}, needed {HEAD_REVISION}")


# -- advisors -----------------------------------------------------------------------------------------------------------------------------


def _prompt(path: Path) -> str:
    from jobs.importing import read_text

    return read_text(path)


@advisors_app.command("add")
def advisors_add(
    slug: Annotated[str, typer.Argument(help="Its permanent name: a-z, 0-9, '-' and '_'.")],
    prompt_file: Annotated[Path, typer.Option(help="File with the system prompt (the persona).")],
    name: Annotated[str | None, typer.Option(help="Name to show.")] = None,
    role: Annotated[str | None, typer.Option(help="One line, such as 'Burnout recovery guide'.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Another name it answers to; may be given several times.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Show its Source Card to everybody.")] = False,
) -> None:
    """Add an advisor with its first persona."""
    from registry import advisors

    with _opened() as opened, opened.db.transaction() as session:
        advisor = advisors.add(
            session, slug, _prompt(prompt_file), actor=opened.actor, name=name, role=role, public=public, aliases=tuple(alias or ())
        )
        print(f"Added {advisor.slug} ({advisor.name}), {'public' if advisor.public else 'private'}.")


@advisors_app.command("list")
def advisors_list(as_json: Json = False) -> None:
    """List every advisor with what is live."""
    from registry import advisors, versions

    rows: list[dict[str, Any]] = []
    with _opened() as opened, opened.db.read() as session:
        after = ""
        while page := advisors.page(session, after=after, limit=200):
            for advisor in page:
                live = next((a.version.number for a in versions.aliases_of(session, advisor) if a.name == "live" and a.version), None)
                rows.append(
                    {"slug": advisor.slug, "name": advisor.name, "live": live, "public": advisor.public, "retired": advisor.retired_at}
                )
            after = page[-1].slug
    if as_json:
        _print_json(rows)
    else:
        _table("", ("advisor", "name", "live", "public", "retired"), [tuple(row.values()) for row in rows])


@advisors_app.command("show")
def advisors_show(advisor: AdvisorName, as_json: Json = False) -> None:
    """Show an advisor, its names and its personas."""
    from registry import advisors, personas

    with _opened() as opened, opened.db.read() as session:
        found = advisors.get(session, advisor)
        spoken = personas.page(session, found, limit=10_000)
        facts = {
            "slug": found.slug,
            "name": found.name,
            "role": found.role,
            "also answers to": ", ".join(advisors.names_of(session, found)) or None,
            "public": found.public,
            "retired": found.retired_at,
            "personas": [
                {"number": p.number, "sha256": p.sha256, "at": p.created_at, "by": p.created_by}
                for p in personas.page(session, found, limit=10_000)
            ],
        }
    _show(as_json, facts)
    if not as_json:
        _table("", ("persona", "digest", "set", "by"), [(p.number, p.sha256, p.created_at, p.created_by) for p in spoken])


@advisors_app.command("prompt")
def advisors_prompt(advisor: AdvisorName, prompt_file: Annotated[Path, typer.Option(help="File with the new system prompt.")]) -> None:
    """Set an advisor's system prompt; the same text changes nothing."""
    from registry import advisors, personas

    with _opened() as opened, opened.db.transaction() as session:
        found = advisors.get_active(session, advisor, lock=True)
        persona = personas.set_prompt(session, found, _prompt(prompt_file), actor=opened.actor)
        print(f"{found.slug} speaks with persona {persona.number} ({persona.sha256}).")


@advisors_app.command("name")
def advisors_name(advisor: AdvisorName, alias: Annotated[str, typer.Argument(help="One more name it shall answer to.")]) -> None:
    """Let an advisor answer to one more name."""
    from registry import advisors

    with _opened() as opened, opened.db.transaction() as session:
        found = advisors.get_active(session, advisor, lock=True)
        advisors.add_alias(session, found, alias, actor=opened.actor)
        print(f"{found.slug} also answers to {alias}.")


@advisors_app.command("edit")
def advisors_edit(
    advisor: AdvisorName,
    name: Annotated[str | None, typer.Option(help="New name to show.")] = None,
    role: Annotated[str | None, typer.Option(help="New role to show.")] = None,
    public: Annotated[bool | None, typer.Option("--public/--private", help="Show or hide its Source Card.")] = None,
) -> None:
    """Change an advisor's shown name, role or publicity."""
    from registry import advisors

    with _opened() as opened, opened.db.transaction() as session:
        found = advisors.change(
            session, advisors.get_active(session, advisor, lock=True), actor=opened.actor, name=name, role=role, public=public
        )
        print(f"{found.slug}: {found.name}, {found.role or 'no role'}, {'public' if found.public else 'private'}.")


@app.command()
def retire(advisor: AdvisorName, reason: Reason) -> None:
    """Take an advisor out of service for good; its versions and history stay."""
    from registry import advisors

    with _opened() as opened, opened.db.transaction() as session:
        found = advisors.get(session, advisor, lock=True)
        advisors.retire(session, found, actor=opened.actor, reason=reason)
        print(f"{found.slug} is retired.")


# -- datasets and sources -----------------------------------------------------------------------------------------------------------------


@datasets_app.command("import")
def datasets_import(
    file: Annotated[Path, typer.Argument(help="JSONL (messages, or instruction and response), or CSV.")],
    advisor: Annotated[str, typer.Option(help="Whose training data it is.")],
    sources: Annotated[Path | None, typer.Option(help="CSL-JSON file that describes the sources the pairs name.")] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="CSV: TARGET=COLUMN[,COLUMN]; targets: instruction, response, source, title, category, author, author_url, origin, generator.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="CSV: a JSON file with the mapping, such as examples/counsel_chat.mapping.json.")
    ] = None,
    origin: Annotated[str | None, typer.Option(help="human, synthesised or edited, for lines that do not say.")] = None,
    generator: Annotated[str | None, typer.Option(help="The model that wrote the pairs, for lines that do not say.")] = None,
    source_class: Annotated[str | None, typer.Option(help="Class of the sources that a CSV names.")] = None,
    heldout: Annotated[float, typer.Option(min=0, max=0.5, help="Share of pairs kept out of training to measure on.")] = 0.1,
    persona: Annotated[
        str | None, typer.Option(help="Persona the pairs were written with (number or digest); default: the present one.")
    ] = None,
    strip_system: Annotated[bool, typer.Option("--strip-system", help="Take system turns out instead of refusing them.")] = False,
) -> None:
    """Import training pairs with their sources; importing the same again changes nothing."""
    from jobs.importing import import_dataset, read_mapping
    from registry.imports import Defaults

    columns, given = read_mapping(mapping, map_ or [])
    defaults = Defaults(
        origin=origin or given.get("origin"),
        generator=generator or given.get("generator"),
        strip_system=strip_system,
        source_class=source_class or given.get("source_class") or "unclassified",
    )
    with _opened() as opened:
        done = import_dataset(
            opened.db,
            advisor,
            file,
            actor=opened.actor,
            citations=sources,
            columns=columns,
            defaults=defaults,
            heldout=heldout,
            persona=persona,
        )
    dataset = done.dataset
    print(f"{'Imported' if done.created else 'Already there:'} {dataset.sha256}")
    print(f"{dataset.examples_total} pairs, {dataset.heldout_total} of them held out; {done.duplicates} exact duplicates left out.")
    for note in done.notes:
        print(f"Note: {note}")


@datasets_app.command("list")
def datasets_list(advisor: Annotated[str, typer.Option(help="Whose datasets.")], as_json: Json = False) -> None:
    """List an advisor's datasets, oldest first."""
    from registry import advisors, datasets

    with _opened() as opened, opened.db.read() as session:
        found = advisors.get(session, advisor)
        rows = [
            {
                "sha256": d.sha256,
                "pairs": d.examples_total,
                "heldout": d.heldout_total,
                "persona": d.persona.number,
                "imported": d.created_at,
                "by": d.created_by,
            }
            for d in datasets.page(session, found, limit=10_000)
        ]
    if as_json:
        _print_json(rows)
    else:
        _table("", ("dataset", "pairs", "held out", "persona", "imported", "by"), [tuple(row.values()) for row in rows])


@datasets_app.command("show")
def datasets_show(
    advisor: Annotated[str, typer.Option(help="Whose dataset.")],
    dataset: Annotated[str | None, typer.Argument(help="Its digest or the first digits; default: the latest.")] = None,
    as_json: Json = False,
) -> None:
    """Show counts by category, sources by class, and pairs with no source."""
    from registry import advisors, datasets

    with _opened() as opened, opened.db.read() as session:
        owner = advisors.get(session, advisor)
        found = datasets.get(session, owner, dataset) if dataset else datasets.latest(session, owner)
        summary = datasets.summary(session, found)
        facts = {
            "dataset": found.sha256,
            "pairs": found.examples_total,
            "held out": found.heldout_total,
            "multi-turn": summary.multi_turn,
            "pairs with no source": summary.without_source,
            "persona": found.persona.number,
            "split": f"{found.split['method']}, {found.split['fraction']:.0%}, seed {found.split['seed']}",
            "categories": summary.categories,
            "origins": summary.origins,
            "sources by class": summary.sources_by_class,
        }
    _show(as_json, facts)
    if not as_json:
        for key, counts in (
            ("categories", summary.categories),
            ("origins", summary.origins),
            ("sources by class", summary.sources_by_class),
        ):
            print()
            _table("", (key, "count"), list(counts.items()))


@sources_app.command("list")
def sources_list(
    ref: Annotated[str, typer.Argument(help="A version (elena@2) or an advisor, which means its live version.")], as_json: Json = False
) -> None:
    """List the sources that a version's training pairs rest on."""
    from registry import sources, versions

    with _opened() as opened, opened.db.read() as session:
        version = versions.resolve(session, ref if "@" in ref or ":" in ref else f"{ref}@live")
        rows = [
            {
                "id": sources.source_id(s),
                "title": sources.title_of(s),
                "class": s.class_,
                "review": s.review_status,
                "check": s.check_status,
                "withdrawn": s.withdrawn_at,
                "url": s.url,
            }
            for s in sources.under_version(session, version)
        ]
    if as_json:
        _print_json(rows)
    else:
        _table("", ("id", "title", "class", "review", "check", "withdrawn", "url"), [tuple(row.values()) for row in rows])


@sources_app.command("describe")
def sources_describe(
    file: Annotated[Path, typer.Argument(help="CSL-JSON file with the citations of sources that are known already.")],
) -> None:
    """Replace the citations of known sources, for every advisor that rests on them; the history keeps the old ones."""
    from jobs.importing import read_text
    from registry import sources
    from registry.imports import read_csl

    drafts = read_csl(read_text(file), file.name)
    with _opened() as opened, opened.db.transaction() as session:
        for draft in drafts:
            found = sources.describe(session, draft, actor=opened.actor)
            print(f"{sources.source_id(found)}: {sources.title_of(found)}")


@sources_app.command("withdraw")
def sources_withdraw(source: Annotated[str, typer.Argument(help="Its URL, DOI or id (src_12).")], reason: Reason) -> None:
    """Mark a source as withdrawn: versions that rest on it are withheld from that moment."""
    from registry import sources

    with _opened() as opened, opened.db.transaction() as session:
        found = sources.get(session, source)
        sources.withdraw(session, found, actor=opened.actor, reason=reason)
        print(f"{sources.source_id(found)} is withdrawn: {sources.title_of(found)}")


# -- versions -----------------------------------------------------------------------------------------------------------------------------


@app.command()
def train(
    advisor: Annotated[str, typer.Option(help="Whose adapter to train.")],
    dataset: Annotated[str | None, typer.Option(help="Digest of the dataset, or its first digits; default: the advisor's latest.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="A hub id (org/name, or org/name@revision), a local folder, or 'tiny'; default: Mistral 7B on a GPU with 20 GB, else tiny."
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file with recipe settings that differ from the defaults.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training pairs.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything random.")] = 42,
    force: Annotated[
        bool, typer.Option("--force", help="Train again although the same training is registered; gives a new number.")
    ] = False,
    show_plan: Annotated[bool, typer.Option("--plan", help="Print what would be trained, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train an adapter on the advisor's data and register it as a new version."""
    from jobs.train import Request, plan
    from jobs.train import train as run

    settings = _recipe_settings(recipe) | ({"epochs": epochs} if epochs is not None else {})
    request = Request(advisor, dataset, base, settings, seed, force)
    with _opened() as opened:
        if show_plan:
            _show(as_json, _plan_facts(plan(opened.db, opened.settings.home, request)), "What would be trained")
            return
        with _progress(quiet=as_json) as on_event:
            done = run(opened.db, opened.store, opened.settings.home, request, actor=opened.actor, on_event=on_event)
    version = done.version
    ref = f"{version.advisor.slug}@{version.number}"
    if as_json:
        _print_json({"ref": ref, "digest": version.digest, "created": done.created})
        return
    print(f"{ref} {'registered' if done.created else 'exists already: the same data, base, recipe and seed (--force trains again)'}")
    print(f"Digest {version.digest}")
    if version.base_model.note:
        print(f"Base {version.base_model.repo}: {version.base_model.note}")
    if done.created:
        print(f"Next: registry show {ref}; registry promote {ref}")


def _recipe_settings(path: Path | None) -> dict[str, Any]:
    from jobs.importing import read_text

    if path is None:
        return {}
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise Invalid(f"{path}: not readable as JSON: {error}.") from None
    if not isinstance(value, dict):
        raise Invalid(f"{path}: expected a JSON object with recipe settings.")
    return value


def _plan_facts(decided: Any) -> dict[str, Any]:
    return {
        "advisor": decided.advisor,
        "dataset": decided.dataset,
        "training pairs": decided.examples - decided.heldout,
        "held out": decided.heldout,
        "base": f"{decided.base.repo}@{decided.base.revision or 'unknown'}",
        "device": decided.device,
        "seed": decided.seed,
        "already registered as": decided.existing,
        **{f"recipe {key}": json.dumps(value) for key, value in decided.recipe.as_json().items()},
    }


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Draws training's events as a progress bar on stderr; plain lines where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None, loss="")

        def on_event(event: Mapping[str, Any]) -> None:
            kind = event.get("event")
            if kind == "phase":
                bar.update(task, description=str(event["name"]).replace("_", " "))
                if not console.is_terminal:
                    console.print(f"{str(event['name']).replace('_', ' ')} ...", markup=False)
            elif kind == "step":
                bar.update(
                    task,
                    completed=event["step"],
                    total=event["of"],
                    loss=f"loss {event['loss']:.3f}" if event.get("loss") is not None else "",
                )
            elif kind == "warning":
                console.print(f"Note: {event.get('message', '')}", markup=False)

        yield on_event


@app.command()
def versions(advisor: AdvisorName, as_json: Json = False) -> None:
    """List an advisor's versions, newest first, with aliases and held-out scores."""
    from registry import advisors, evaluations
    from registry import versions as registered

    rows: list[dict[str, Any]] = []
    with _opened() as opened, opened.db.read() as session:
        found = advisors.get(session, advisor)
        aliases = registered.aliases_of(session, found)
        before = None
        while page := registered.page(session, found, before=before, limit=200):
            scores = evaluations.latest(session, [v.id for v in page])
            rows += [_version_row(v, [a.name for a in aliases if a.version_id == v.id], scores.get(v.id, [])) for v in page]
            before = page[-1].number
    if as_json:
        _print_json(rows)
    else:
        columns = ("version", "state", "aliases", "dataset", "base", "held-out loss", "base's", "registered", "by")
        _table("", columns, [tuple(row.values()) for row in rows])


def _version_row(version: "AdapterVersion", aliases: list[str], scores: list["Evaluation"]) -> dict[str, Any]:
    values = {s.metric: s.value for e in scores if e.suite == "heldout" for s in e.scores}
    return {
        "version": version.number,
        "state": version.state,
        "aliases": ", ".join(aliases) or None,
        "dataset": version.dataset.sha256[7:19],
        "base": version.base_model.repo,
        "loss": values.get("adapter_loss"),
        "base_loss": values.get("base_loss"),
        "registered": version.ready_at,
        "by": version.created_by,
    }


@app.command()
def show(ref: Ref, as_json: Json = False) -> None:
    """Show a version: what it was made from, its files, timings and scores."""
    from registry import evaluations
    from registry import versions as registered

    with _opened() as opened, opened.db.read() as session:
        version = registered.resolve(session, ref)
        facts = _version_facts(version)
        facts["scores"] = _score_rows(evaluations.latest(session, [version.id]).get(version.id, []))
    _show(as_json, facts)
    if as_json:
        return
    print()
    _table("", ("file", "bytes", "sha256"), [(f["path"], f["size"], f["sha256"]) for f in facts["files"]])
    for heading in ("recipe", "timings", "environment"):
        if facts[heading]:
            print()
            _table("", (heading, ""), [(k, v if not isinstance(v, (dict, list)) else json.dumps(v)) for k, v in facts[heading].items()])
    _print_scores(facts["scores"])


def _version_facts(version: "AdapterVersion") -> dict[str, Any]:
    run = version.run
    return {
        "ref": f"{version.advisor.slug}@{version.number}",
        "state": version.state,
        "withdrawn because": version.withdrawn_reason,
        "digest": version.digest,
        "dataset": version.dataset.sha256,
        "base": f"{version.base_model.repo}@{version.base_model.revision or 'unknown'}",
        "about the base": version.base_model.note,
        "persona": version.persona.number,
        "seed": version.seed,
        "recipe digest": version.recipe_digest,
        "registered": version.ready_at,
        "by": version.created_by,
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in version.files],
        "recipe": version.recipe,
        "timings": run.timings if run else None,
        "environment": run.environment if run else None,
        "loss curve": (run.metrics or {}).get("loss_curve") if run else None,
    }


def _score_rows(found: Sequence["Evaluation"]) -> list[dict[str, Any]]:
    return [
        {"suite": e.suite, "metric": s.metric, "value": s.value, "low": s.low, "high": s.high, "n": s.n, "at": e.created_at}
        for e in found
        for s in e.scores
    ]


def _print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        print()
        _table("", ("suite", "metric", "value", "95% low", "95% high", "n", "at"), [tuple(row.values()) for row in rows])


@app.command()
def diff(first: Ref, second: Ref, as_json: Json = False) -> None:
    """Compare two versions: recipe, data, sources added and removed, scores."""
    from lineage.diff import diff as compare
    from registry import versions as registered

    with _opened() as opened, opened.db.read() as session:
        found = compare(session, registered.resolve(session, first), registered.resolve(session, second))
    if as_json:
        _print_json(found)
        return
    data = found.data
    print(f"{found.before} -> {found.after}")
    print("Data: the same" if data.same else f"Training pairs: {data.added} added, {data.removed} removed, {data.kept} kept")
    print(f"Held-out pairs: {data.heldout_before} -> {data.heldout_after}")
    for heading, changes in (("facts", found.facts), ("recipe", found.recipe), ("files", found.files)):
        if changes:
            _table("", (heading, found.before, found.after), [(c.what, c.before, c.after) for c in changes])
    for heading, changed in (("sources added", found.sources_added), ("sources removed", found.sources_removed)):
        if changed:
            _table("", (heading, "title", "url"), [(c.id, c.title, c.url) for c in changed])
    if not (found.sources_added or found.sources_removed):
        print("Sources: the same")
    if found.scores:
        _table("", ("scores", "", found.before, found.after), [(c.suite, c.metric, c.before, c.after) for c in found.scores])
        if not data.same and any(c.suite == "heldout" for c in found.scores):
            print(
                "The held-out pairs of the two differ, so their held-out scores compare loosely; each one's loss_difference is paired with its base."
            )


@app.command()
def card(
    ref: Annotated[str, typer.Argument(help="An advisor, which means its live version, or a version such as elena@2.")],
    as_json: Json = False,
) -> None:
    """Print the Source Card: what the public may read about an advisor's training."""
    from lineage.card import Wanted, build

    name, _, tail = ref.partition("@")
    wanted = Wanted(version=int(tail)) if tail.isdecimal() and len(tail) < 10 else Wanted(alias=tail or None)
    with _opened() as opened, opened.db.read() as session:
        found = build(session, name, wanted, may_see=lambda _advisor: True).body
    if as_json:
        _print_json(found)
        return
    _print_card(found)


def _print_card(found: Mapping[str, Any]) -> None:
    advisor, version = found["advisor"], found["version"]
    print(f"{advisor['name']}{', ' + advisor['role'] if advisor['role'] else ''}. {advisor['disclosure']}")
    print(f"{version['ref']}: {found['summary']['sentence']}" if version else "No version is live.")
    for line in found["summary"]["lines"]:
        print(f"  - {line}")
    for notice in found["notices"]:
        print(f"Notice: {notice['text']}")
    for group in found["groups"]:
        print(f"\n{group['label']} ({group['count']})")
        for source in group["sources"]:
            print(f"  {source['citation_text']} [{source['use']['pairs']} pairs]")
        if group["next"]:
            print("  ... and more: registry sources list")


# -- moving aliases -----------------------------------------------------------------------------------------------------------------------


def _locked_version(session: Any, ref: str) -> "AdapterVersion":
    """The version behind a reference, read again after its advisor was locked: what was true before may not be any more."""
    from registry import advisors
    from registry import versions as registered

    advisors.get(session, registered.resolve(session, ref).advisor.slug, lock=True)
    return registered.resolve(session, ref)


def _expected(version: int | None) -> "Expected | None":
    from registry.promotion import Expected

    return Expected(version=version) if version is not None else None


def _print_move(move: "Move") -> None:
    def name(number: int | None) -> str:
        return f"{move.advisor}@{number}" if number else "nothing"

    if move.before == move.after:
        print(f"{move.advisor}: {move.alias} points to {name(move.after)} already; nothing to do.")
        return
    print(
        f"{move.advisor}: {move.alias} {'moved' if move.done else 'would move'} from {name(move.before)} to {name(move.after)} ({move.kind.replace('_', ' ')})."
    )


@app.command()
def promote(ref: Ref, alias: AliasOption = "live", reason: Reason = "", expect: ExpectOption = None, dry_run: DryRun = False) -> None:
    """Point an alias (live by default) to a version, if its files and sources stand."""
    from registry import promotion

    with _opened() as opened, opened.db.transaction() as session:
        version = _locked_version(session, ref)
        _print_move(
            promotion.promote(
                session, opened.store, version, actor=opened.actor, alias=alias, reason=reason, expected=_expected(expect), dry_run=dry_run
            )
        )


@app.command()
def rollback(
    advisor: AdvisorName,
    reason: Reason,
    to: Annotated[
        int | None,
        typer.Option(min=1, max=999_999_999, help="Version number; default: the one that was live before, skipping withdrawn ones."),
    ] = None,
    alias: AliasOption = "live",
    expect: ExpectOption = None,
    dry_run: DryRun = False,
) -> None:
    """Go back to a version that was live before."""
    from registry import promotion

    _move_advisor(promotion.rollback, advisor, alias=alias, reason=reason, expect=expect, dry_run=dry_run, to=to)


@app.command()
def undo(
    advisor: AdvisorName, reason: Reason = "", alias: AliasOption = "live", expect: ExpectOption = None, dry_run: DryRun = False
) -> None:
    """Take the last move of an alias back."""
    from registry import promotion

    _move_advisor(promotion.undo, advisor, alias=alias, reason=reason, expect=expect, dry_run=dry_run)


@app.command()
def clear(advisor: AdvisorName, reason: Reason, alias: AliasOption = "live", expect: ExpectOption = None, dry_run: DryRun = False) -> None:
    """Let an alias point to nothing until the next promotion."""
    from registry import promotion

    def act(session: Any, _store: Any, found: Any, **rest: Any) -> "Move":
        return promotion.clear(session, found, **rest)

    _move_advisor(act, advisor, alias=alias, reason=reason, expect=expect, dry_run=dry_run)


def _move_advisor(act: Callable[..., "Move"], advisor: str, *, expect: int | None, **rest: Any) -> None:
    from registry import advisors

    with _opened() as opened, opened.db.transaction() as session:
        found = advisors.get_active(session, advisor, lock=True)
        _print_move(act(session, opened.store, found, actor=opened.actor, expected=_expected(expect), **rest))


@app.command()
def withdraw(ref: Ref, reason: Reason) -> None:
    """Take a version out of service for good; it stays on record."""
    from registry import versions as registered

    with _opened() as opened, opened.db.transaction() as session:
        version = _locked_version(session, ref)
        registered.withdraw(session, version, actor=opened.actor, reason=reason)
        print(f"{version.advisor.slug}@{version.number} is withdrawn.")


@app.command()
def log(advisor: AdvisorName, as_json: Json = False) -> None:
    """Tell an advisor's history: who, when, what, from where to where, and why."""
    from registry import advisors, events

    with _opened() as opened, opened.db.read() as session:
        found = advisors.get(session, advisor)
        rows, after = [], 0
        while page := events.of_advisor(session, found, after=after):
            rows += [{"seq": e.seq, "at": e.at, "actor": e.actor, "event": e.tag, **events.body_of(e)} for e in page]
            after = page[-1].seq
    if as_json:
        _print_json(rows)
    else:
        _table("", ("event", "when", "who", "what", ""), [(r["seq"], r["at"], r["actor"], r["event"], _told(r)) for r in rows])


def _told(row: Mapping[str, Any]) -> str:
    if str(row["event"]).startswith("alias:"):
        return f"{row['alias']}: {row['from'] or 'nothing'} -> {row['to'] or 'nothing'}{': ' + row['reason'] if row['reason'] else ''}"
    facts = {key: value for key, value in row.items() if key not in ("seq", "at", "actor", "event")}
    return ", ".join(f"{key} {_brief(value)}" for key, value in facts.items())


def _brief(value: Any) -> str:
    """A fact in few words: digests cut, figures rounded, lists and objects by their parts."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " and ".join(map(_brief, value)) or "none"
    text = _cell(value)
    return text[:19] if text.startswith("sha256:") else text


@app.command()
def resolve(
    ref: Ref,
    at: Annotated[str | None, typer.Option(help="As it was then: a time, or a date, which means the end of that UTC day.")] = None,
    as_json: Json = False,
) -> None:
    """Say which version a reference means, now or at a past moment."""
    from registry import advisors, promotion
    from registry import versions as registered
    from registry.refs import ByAlias, parse

    with _opened() as opened, opened.db.read() as session:
        words = "now"
        if at is None:
            version = registered.resolve(session, ref)
        else:
            parsed = parse(ref)
            if not isinstance(parsed, ByAlias):
                raise Invalid(f"--at asks where an alias pointed; found {ref}.", hint="Use elena@live --at 2026-03-03.")
            moment, words = promotion.moment_of(at)
            version = promotion.resolve_at(session, advisors.get(session, parsed.advisor), parsed.alias, moment)
        facts = {"ref": f"{version.advisor.slug}@{version.number}", "digest": version.digest, "state": version.state, "at": words}
    _show(as_json, facts)


@app.command()
def pull(ref: Ref, out: Annotated[Path | None, typer.Option(help="Folder to write into; default: ./<advisor>-v<number>.")] = None) -> None:
    """Download a version's files, each verified against its digest."""
    from jobs.pull import pull as fetch
    from registry import versions as registered

    with _opened() as opened, opened.db.read() as session:
        version = registered.resolve(session, ref)
        folder = out or Path(f"{version.advisor.slug}-v{version.number}")
        written = fetch(opened.store, version, folder)
        print(f"{version.advisor.slug}@{version.number} is in {folder} ({len(written)} files written, all verified).")


@app.command()
def verify(ref: Ref, as_json: Json = False) -> None:
    """Re-compute a version's chain from documents to files and list every difference; exit code 1 if there is one."""
    from registry import verification
    from registry import versions as registered

    with _opened() as opened, opened.db.read() as session:
        version = registered.resolve(session, ref)
        differences = verification.verify(session, opened.store, version)
        name = f"{version.advisor.slug}@{version.number}"
    if as_json:
        _print_json({"ref": name, "differences": differences})
    for line in differences if not as_json else ():
        print(f"DIFFERS  {line}")
    if not differences and not as_json:
        print(f"{name} verifies: files, dataset, examples, documents, recipe and digests agree.")
    if differences:
        raise typer.Exit(1)


@app.command()
def audit(
    export: Annotated[Path | None, typer.Option(help="Write the chain's head to this file, to be kept elsewhere.")] = None,
    expect: Annotated[Path | None, typer.Option(help="A head exported before: a cut tail then shows.")] = None,
) -> None:
    """Check the hash chain of the whole history; exit code 1 if it is broken."""
    from jobs.importing import read_text
    from registry import events

    kept = None
    if expect is not None:
        try:
            data = json.loads(read_text(expect))
            kept = events.Head(int(data["seq"]), str(data["hash"]))
        except (ValueError, KeyError, TypeError):
            raise Invalid(f"{expect} is no exported head: expected JSON with seq and hash.") from None
    with _opened() as opened, opened.db.read() as session:
        faults = events.audit(session, kept)
        head = events.head(session)
    for fault in faults:
        print(f"BROKEN  {fault}")
    if faults:
        raise typer.Exit(1)
    print(f"The history holds: {head.seq} events, head {head.hash}.")
    if export is not None:
        export.write_text(json.dumps({"seq": head.seq, "hash": head.hash}) + "\n", encoding="utf-8")
        print(f"Head written to {export}.")


# -- scores and tokens --------------------------------------------------------------------------------------------------------------------


@scores_app.command("add")
def scores_add(
    ref: Ref, file: Annotated[Path, typer.Argument(help='JSON: {"suite", "scores": [{"metric", "value", "n", "low", "high"}]}.')]
) -> None:
    """Record scores of a version from a file."""
    from jobs.importing import read_text
    from registry import evaluations
    from registry import versions as registered

    suite, drafts = evaluations.read_file(read_text(file), file.name)
    with _opened() as opened, opened.db.transaction() as session:
        version = registered.resolve(session, ref)
        _add_scores(session, version, suite, drafts, opened.actor)
        print(f"{len(drafts)} scores of {version.advisor.slug}@{version.number} recorded under {suite}.")


def _add_scores(session: Any, version: "AdapterVersion", suite: str, drafts: Sequence["ScoreDraft"], actor: str) -> None:
    from registry import advisors, evaluations

    advisors.get(session, version.advisor.slug, lock=True)
    evaluations.add(session, version, suite, drafts, actor=actor)


@scores_app.command("show")
def scores_show(ref: Ref, as_json: Json = False) -> None:
    """Print the newest scores of every suite of a version."""
    from registry import evaluations
    from registry import versions as registered

    with _opened() as opened, opened.db.read() as session:
        version = registered.resolve(session, ref)
        rows = _score_rows(evaluations.latest(session, [version.id]).get(version.id, []))
    if as_json:
        _print_json(rows)
    else:
        _print_scores(rows)


@tokens_app.command("create")
def tokens_create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str], typer.Option(help="read, write, promote or admin; may be given several times.")],
    advisor: Annotated[str | None, typer.Option(help="Bind it to one advisor.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days until it expires.")] = 90,
) -> None:
    """Make a token and print its secret, once."""
    from registry import advisors, tokens

    with _opened() as opened, opened.db.transaction() as session:
        owner = advisors.get(session, advisor) if advisor else None
        created = tokens.create(session, name, tuple(scope), actor=opened.actor, advisor=owner, lifetime=dt.timedelta(days=days))
    print(created.secret)


@tokens_app.command("list")
def tokens_list(as_json: Json = False) -> None:
    """List tokens; secrets are not stored and cannot be shown."""
    from registry import tokens

    with _opened() as opened, opened.db.read() as session:
        rows = [
            {
                "id": t.id,
                "name": t.name,
                "prefix": t.prefix,
                "scopes": ", ".join(t.scopes),
                "expires": t.expires_at,
                "revoked": t.revoked_at,
            }
            for t in tokens.page(session)
        ]
    if as_json:
        _print_json(rows)
    else:
        _table("", ("id", "name", "starts with", "scopes", "expires", "revoked"), [tuple(row.values()) for row in rows])


@tokens_app.command("revoke")
def tokens_revoke(token_id: Annotated[int, typer.Argument(min=1, max=2**31 - 1, help="Its id, from tokens list.")]) -> None:
    """End a token at once."""
    from registry import tokens

    with _opened() as opened, opened.db.transaction() as session:
        token = tokens.revoke(session, token_id, actor=opened.actor)
        print(f"Token {token.id} ({token.name}) is revoked.")


def main() -> None:
    """Entry point of the command `registry`."""
    app()


if __name__ == "__main__":
    main()
