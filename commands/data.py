"""Training data and the sources it rests on."""

from pathlib import Path
from typing import Annotated

import typer

from commands.frame import Json, Reason, datasets_app, open_catalogue, print_json, show_facts, sources_app, table


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
    with open_catalogue() as opened:
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

    with open_catalogue() as opened, opened.db.read() as session:
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
        print_json(rows)
    else:
        table("", ("dataset", "pairs", "held out", "persona", "imported", "by"), [tuple(row.values()) for row in rows])


@datasets_app.command("show")
def datasets_show(
    advisor: Annotated[str, typer.Option(help="Whose dataset.")],
    dataset: Annotated[str | None, typer.Argument(help="Its digest or the first digits; default: the latest.")] = None,
    as_json: Json = False,
) -> None:
    """Show counts by category, sources by class, and pairs with no source."""
    from registry import advisors, datasets

    with open_catalogue() as opened, opened.db.read() as session:
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
    show_facts(as_json, facts)
    if not as_json:
        for key, counts in (
            ("categories", summary.categories),
            ("origins", summary.origins),
            ("sources by class", summary.sources_by_class),
        ):
            print()
            table("", (key, "count"), list(counts.items()))


@sources_app.command("list")
def sources_list(
    ref: Annotated[str, typer.Argument(help="A version (elena@2) or an advisor, which means its live version.")], as_json: Json = False
) -> None:
    """List the sources that a version's training pairs rest on."""
    from registry import sources, versions

    with open_catalogue() as opened, opened.db.read() as session:
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
        print_json(rows)
    else:
        table("", ("id", "title", "class", "review", "check", "withdrawn", "url"), [tuple(row.values()) for row in rows])


@sources_app.command("describe")
def sources_describe(
    file: Annotated[Path, typer.Argument(help="CSL-JSON file with the citations of sources that are known already.")],
) -> None:
    """Replace the citations of known sources, for every advisor that rests on them; the history keeps the old ones."""
    from jobs.importing import read_text
    from registry import sources
    from registry.imports import read_csl

    drafts = read_csl(read_text(file), file.name)
    with open_catalogue() as opened, opened.db.transaction() as session:
        for draft in drafts:
            found = sources.describe(session, draft, actor=opened.actor)
            print(f"{sources.source_id(found)}: {sources.title_of(found)}")


@sources_app.command("withdraw")
def sources_withdraw(source: Annotated[str, typer.Argument(help="Its URL, DOI or id (src_12).")], reason: Reason) -> None:
    """Mark a source as withdrawn: versions that rest on it are withheld from that moment."""
    from registry import sources

    with open_catalogue() as opened, opened.db.transaction() as session:
        found = sources.get(session, source)
        sources.withdraw(session, found, actor=opened.actor, reason=reason)
        print(f"{sources.source_id(found)} is withdrawn: {sources.title_of(found)}")
