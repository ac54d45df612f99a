"""Advisors and their personas."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.frame import AdvisorName, Json, Reason, advisors_app, app, open_catalogue, print_json, show_facts, table


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

    with open_catalogue() as opened, opened.db.transaction() as session:
        advisor = advisors.add(
            session, slug, _prompt(prompt_file), actor=opened.actor, name=name, role=role, public=public, aliases=tuple(alias or ())
        )
        print(f"Added {advisor.slug} ({advisor.name}), {'public' if advisor.public else 'private'}.")


@advisors_app.command("list")
def advisors_list(as_json: Json = False) -> None:
    """List every advisor with what is live."""
    from registry import advisors, versions

    rows: list[dict[str, Any]] = []
    with open_catalogue() as opened, opened.db.read() as session:
        after = ""
        while page := advisors.page(session, after=after, limit=200):
            for advisor in page:
                live = next((a.version.number for a in versions.aliases_of(session, advisor) if a.name == "live" and a.version), None)
                rows.append(
                    {"slug": advisor.slug, "name": advisor.name, "live": live, "public": advisor.public, "retired": advisor.retired_at}
                )
            after = page[-1].slug
    if as_json:
        print_json(rows)
    else:
        table("", ("advisor", "name", "live", "public", "retired"), [tuple(row.values()) for row in rows])


@advisors_app.command("show")
def advisors_show(advisor: AdvisorName, as_json: Json = False) -> None:
    """Show an advisor, its names and its personas."""
    from registry import advisors, personas

    with open_catalogue() as opened, opened.db.read() as session:
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
    show_facts(as_json, facts)
    if not as_json:
        table("", ("persona", "digest", "set", "by"), [(p.number, p.sha256, p.created_at, p.created_by) for p in spoken])


@advisors_app.command("prompt")
def advisors_prompt(advisor: AdvisorName, prompt_file: Annotated[Path, typer.Option(help="File with the new system prompt.")]) -> None:
    """Set an advisor's system prompt; the same text changes nothing."""
    from registry import advisors, personas

    with open_catalogue() as opened, opened.db.transaction() as session:
        found = advisors.get_active(session, advisor, lock=True)
        persona = personas.set_prompt(session, found, _prompt(prompt_file), actor=opened.actor)
        print(f"{found.slug} speaks with persona {persona.number} ({persona.sha256}).")


@advisors_app.command("name")
def advisors_name(advisor: AdvisorName, alias: Annotated[str, typer.Argument(help="One more name it shall answer to.")]) -> None:
    """Let an advisor answer to one more name."""
    from registry import advisors

    with open_catalogue() as opened, opened.db.transaction() as session:
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

    with open_catalogue() as opened, opened.db.transaction() as session:
        found = advisors.change(
            session, advisors.get_active(session, advisor, lock=True), actor=opened.actor, name=name, role=role, public=public
        )
        print(f"{found.slug}: {found.name}, {found.role or 'no role'}, {'public' if found.public else 'private'}.")


@app.command()
def retire(advisor: AdvisorName, reason: Reason) -> None:
    """Take an advisor out of service for good; its versions and history stay."""
    from registry import advisors

    with open_catalogue() as opened, opened.db.transaction() as session:
        found = advisors.get(session, advisor, lock=True)
        advisors.retire(session, found, actor=opened.actor, reason=reason)
        print(f"{found.slug} is retired.")
