"""Versions: train, list, show, compare, and the Source Card."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.frame import AdvisorName, Json, Ref, app, open_catalogue, print_json, show_facts, table
from registry.errors import Invalid
from registry.vocabulary import DEFAULT_SEED, MAX_SEED

if TYPE_CHECKING:
    from registry.models import AdapterVersion, Evaluation
    from trainer.spec import Drive


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
    method: Annotated[
        str | None, typer.Option(help="lora, qlora or full; default: what suits base and hardware (--plan says which, and why).")
    ] = None,
    targets: Annotated[str | None, typer.Option(help="Which modules get an adapter: attention or all-linear.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training pairs.")] = None,
    until: Annotated[
        str | None, typer.Option(help="HH:MM, local time: if not done by then, save the state and leave; the same command goes on later.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything random.")] = DEFAULT_SEED,
    force: Annotated[
        bool, typer.Option("--force", help="Train again although the same training is registered; gives a new number.")
    ] = False,
    show_plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be trained, what it needs and how long it takes, and stop.")
    ] = False,
    gpu_price: Annotated[float | None, typer.Option(min=0, help="Price of one GPU for an hour; --plan then says the cost.")] = None,
    as_json: Json = False,
) -> None:
    """Train an adapter on the advisor's data and register it as a new version."""
    from jobs.train import Request, plan
    from jobs.train import train as run

    named = {"method": method, "targets": targets, "epochs": epochs}
    settings = recipe_settings(recipe) | {name: value for name, value in named.items() if value is not None}
    request = Request(advisor, dataset, base, settings, seed, force, drive=_drive(until))
    with open_catalogue() as opened:
        if show_plan:
            from jobs.planning import JSON_ONLY, facts, look_ahead

            home = opened.settings.home
            decided = plan(opened.db, home, request)
            ahead = facts(look_ahead(opened.db, decided, home=home, gpu_price=gpu_price, asked_method=settings.get("method")))
            recipe_facts = {f"recipe {key}": json.dumps(value) for key, value in decided.recipe.as_json().items()}
            shown = ahead if as_json else {name: value for name, value in ahead.items() if name not in JSON_ONLY}
            show_facts(as_json, shown | recipe_facts, "What would be trained")
            return
        with progress(quiet=as_json) as on_event:
            done = run(opened.db, opened.store, opened.settings.home, request, actor=opened.actor, on_event=on_event)
    version = done.version
    ref = f"{version.advisor.slug}@{version.number}"
    if as_json:
        print_json({"ref": ref, "digest": version.digest, "created": done.created})
        return
    print(f"{ref} {'registered' if done.created else 'exists already: the same data, base, recipe and seed (--force trains again)'}")
    print(f"Digest {version.digest}")
    if version.base_model.note:
        print(f"Base {version.base_model.repo}: {version.base_model.note}")
    if done.created:
        print(f"Next: registry show {ref}; registry promote {ref}")


def recipe_settings(path: Path | None) -> dict[str, Any]:
    """The settings in a recipe file, none without a file. Raises Invalid where it is no JSON object."""
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


def _drive(until: str | None) -> "Drive":
    import datetime as dt

    from commands.jobs import moment_of
    from trainer.spec import Drive

    return Drive(stop_at=moment_of(until, dt.datetime.now().astimezone())) if until else Drive()


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
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
    with open_catalogue() as opened, opened.db.read() as session:
        found = advisors.get(session, advisor)
        aliases = registered.aliases_of(session, found)
        before = None
        while page := registered.page(session, found, before=before, limit=200):
            scores = evaluations.latest(session, [v.id for v in page])
            rows += [_version_row(v, [a.name for a in aliases if a.version_id == v.id], scores.get(v.id, [])) for v in page]
            before = page[-1].number
    if as_json:
        print_json(rows)
    else:
        columns = ("version", "state", "aliases", "dataset", "base", "held-out loss", "base's", "registered", "by")
        table("", columns, [tuple(row.values()) for row in rows])


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

    with open_catalogue() as opened, opened.db.read() as session:
        version = registered.resolve(session, ref)
        facts = _version_facts(version)
        facts["scores"] = score_rows(evaluations.latest(session, [version.id]).get(version.id, []))
    show_facts(as_json, facts)
    if as_json:
        return
    print()
    table("", ("file", "bytes", "sha256"), [(f["path"], f["size"], f["sha256"]) for f in facts["files"]])
    if facts["checkpoints"]:
        print()
        table("", ("kept at step", "epoch", "bytes", "sha256"), [tuple(c.values()) for c in facts["checkpoints"]])
    for heading in ("recipe", "timings", "environment"):
        if facts[heading]:
            print()
            table("", (heading, ""), [(key, _in_a_cell(value)) for key, value in facts[heading].items()])
    print_scores(facts["scores"])


def _version_facts(version: "AdapterVersion") -> dict[str, Any]:
    run = version.run
    return {
        "ref": f"{version.advisor.slug}@{version.number}",
        "kind": version.kind,
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
        "job": version.job,
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in version.files],
        "checkpoints": [{"step": c.step, "epoch": c.epoch, "size": c.size, "sha256": c.sha256} for c in version.checkpoints],
        "recipe": version.recipe,
        "timings": run.timings if run else None,
        "environment": run.environment if run else None,
        "loss curve": (run.metrics or {}).get("loss_curve") if run else None,
    }


def _in_a_cell(value: Any) -> Any:
    """A fact as it fits into a table: of a long list its length alone, which --json spells out."""
    if isinstance(value, list) and len(value) > 20:
        return f"{len(value)} entries (--json lists them)"
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def score_rows(found: Sequence["Evaluation"]) -> list[dict[str, Any]]:
    """One row per score."""
    return [
        {"suite": e.suite, "metric": s.metric, "value": s.value, "low": s.low, "high": s.high, "n": s.n, "at": e.created_at}
        for e in found
        for s in e.scores
    ]


def print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print score rows as a table."""
    if rows:
        print()
        table("", ("suite", "metric", "value", "95% low", "95% high", "n", "at"), [tuple(row.values()) for row in rows])


@app.command()
def diff(first: Ref, second: Ref, as_json: Json = False) -> None:
    """Compare two versions: recipe, data, sources added and removed, scores."""
    from lineage.diff import diff as compare
    from registry import versions as registered

    with open_catalogue() as opened, opened.db.read() as session:
        found = compare(session, registered.resolve(session, first), registered.resolve(session, second))
    if as_json:
        print_json(found)
        return
    data = found.data
    print(f"{found.before} -> {found.after}")
    print("Data: the same" if data.same else f"Training pairs: {data.added} added, {data.removed} removed, {data.kept} kept")
    print(f"Held-out pairs: {data.heldout_before} -> {data.heldout_after}")
    for heading, changes in (("facts", found.facts), ("recipe", found.recipe), ("files", found.files)):
        if changes:
            table("", (heading, found.before, found.after), [(c.what, c.before, c.after) for c in changes])
    for heading, changed in (("sources added", found.sources_added), ("sources removed", found.sources_removed)):
        if changed:
            table("", (heading, "title", "url"), [(c.id, c.title, c.url) for c in changed])
    if not (found.sources_added or found.sources_removed):
        print("Sources: the same")
    if found.scores:
        table("", ("scores", "", found.before, found.after), [(c.suite, c.metric, c.before, c.after) for c in found.scores])
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
    with open_catalogue() as opened, opened.db.read() as session:
        found = build(session, name, wanted, may_see=lambda _advisor: True).body
    if as_json:
        print_json(found)
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
