"""Scores and tokens."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.frame import Json, Ref, open_catalogue, print_json, scores_app, table, tokens_app
from commands.versions import print_scores, score_rows

if TYPE_CHECKING:
    from registry.evaluations import ScoreDraft
    from registry.models import AdapterVersion


@scores_app.command("add")
def scores_add(
    ref: Ref, file: Annotated[Path, typer.Argument(help='JSON: {"suite", "scores": [{"metric", "value", "n", "low", "high"}]}.')]
) -> None:
    """Record scores of a version from a file."""
    from jobs.importing import read_text
    from registry import evaluations
    from registry import versions as registered

    suite, drafts = evaluations.read_file(read_text(file), file.name)
    with open_catalogue() as opened, opened.db.transaction() as session:
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

    with open_catalogue() as opened, opened.db.read() as session:
        version = registered.resolve(session, ref)
        rows = score_rows(evaluations.latest(session, [version.id]).get(version.id, []))
    if as_json:
        print_json(rows)
    else:
        print_scores(rows)


@tokens_app.command("create")
def tokens_create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str], typer.Option(help="read, write, promote or admin; may be given several times.")],
    advisor: Annotated[str | None, typer.Option(help="Bind it to one advisor.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days until it expires.")] = 90,
) -> None:
    """Make a token and print its secret, once."""
    from registry import advisors, tokens

    with open_catalogue() as opened, opened.db.transaction() as session:
        owner = advisors.get(session, advisor) if advisor else None
        created = tokens.create(session, name, tuple(scope), actor=opened.actor, advisor=owner, lifetime=dt.timedelta(days=days))
    print(created.secret)


@tokens_app.command("list")
def tokens_list(as_json: Json = False) -> None:
    """List tokens; secrets are not stored and cannot be shown."""
    from registry import tokens

    with open_catalogue() as opened, opened.db.read() as session:
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
        print_json(rows)
    else:
        table("", ("id", "name", "starts with", "scopes", "expires", "revoked"), [tuple(row.values()) for row in rows])


@tokens_app.command("revoke")
def tokens_revoke(token_id: Annotated[int, typer.Argument(min=1, max=2**31 - 1, help="Its id, from tokens list.")]) -> None:
    """End a token at once."""
    from registry import tokens

    with open_catalogue() as opened, opened.db.transaction() as session:
        token = tokens.revoke(session, token_id, actor=opened.actor)
        print(f"Token {token.id} ({token.name}) is revoked.")
