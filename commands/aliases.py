"""Moving aliases, the history, and what checks it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.frame import (
    AdvisorName,
    AliasOption,
    DryRun,
    ExpectOption,
    Json,
    Reason,
    Ref,
    app,
    cell_text,
    open_catalogue,
    print_json,
    show_facts,
    table,
)
from registry.errors import Invalid

if TYPE_CHECKING:
    from registry.models import AdapterVersion
    from registry.promotion import Expected, Move


def _version(session: Any, ref: str, *, lock: bool) -> "AdapterVersion":
    """The version behind a reference; with `lock`, read again after its advisor was locked: what was true before may not be any more."""
    from registry import advisors
    from registry import versions as registered

    found = registered.resolve(session, ref)
    if not lock:
        return found
    advisors.get(session, found.advisor.slug, lock=True)
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

    with open_catalogue() as opened:

        def act(session: Any, store: Any, rehearsal: bool) -> "Move":
            version = _version(session, ref, lock=not rehearsal)
            return promotion.promote(
                session, store, version, actor=opened.actor, alias=alias, reason=reason, expected=_expected(expect), dry_run=rehearsal
            )

        _print_move(promotion.move(opened.db, opened.store, act, dry_run=dry_run))


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


def _move_advisor(how: Callable[..., "Move"], advisor: str, *, expect: int | None, dry_run: bool, **rest: Any) -> None:
    from registry import advisors, promotion

    with open_catalogue() as opened:

        def act(session: Any, store: Any, rehearsal: bool) -> "Move":
            found = advisors.get_active(session, advisor, lock=not rehearsal)
            return how(session, store, found, actor=opened.actor, expected=_expected(expect), dry_run=rehearsal, **rest)

        _print_move(promotion.move(opened.db, opened.store, act, dry_run=dry_run))


@app.command()
def withdraw(ref: Ref, reason: Reason) -> None:
    """Take a version out of service for good; it stays on record."""
    from registry import versions as registered

    with open_catalogue() as opened, opened.db.transaction() as session:
        version = _version(session, ref, lock=True)
        registered.withdraw(session, version, actor=opened.actor, reason=reason)
        print(f"{version.advisor.slug}@{version.number} is withdrawn.")


@app.command()
def log(advisor: AdvisorName, as_json: Json = False) -> None:
    """Tell an advisor's history: who, when, what, from where to where, and why."""
    from registry import advisors, events

    with open_catalogue() as opened, opened.db.read() as session:
        found = advisors.get(session, advisor)
        rows, after = [], 0
        while page := events.of_advisor(session, found, after=after):
            rows += [{"seq": e.seq, "at": e.at, "actor": e.actor, "event": e.tag, **events.body_of(e)} for e in page]
            after = page[-1].seq
    if as_json:
        print_json(rows)
    else:
        table("", ("event", "when", "who", "what", ""), [(r["seq"], r["at"], r["actor"], r["event"], _told(r)) for r in rows])


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
    text = cell_text(value)
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

    with open_catalogue() as opened, opened.db.read() as session:
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
    show_facts(as_json, facts)


@app.command()
def pull(ref: Ref, out: Annotated[Path | None, typer.Option(help="Folder to write into; default: ./<advisor>-v<number>.")] = None) -> None:
    """Download a version's files, each verified against its digest."""
    from jobs.pull import pull as fetch
    from registry import versions as registered

    with open_catalogue() as opened, opened.db.read() as session:
        version = registered.resolve(session, ref)
        folder = out or Path(f"{version.advisor.slug}-v{version.number}")
        written = fetch(opened.store, version, folder)
        print(f"{version.advisor.slug}@{version.number} is in {folder} ({len(written)} files written, all verified).")


@app.command()
def verify(ref: Ref, as_json: Json = False) -> None:
    """Re-compute a version's chain from documents to files and list every difference; exit code 1 if there is one."""
    from registry import verification
    from registry import versions as registered

    with open_catalogue() as opened, opened.db.read() as session:
        version = registered.resolve(session, ref)
        differences = verification.verify(session, opened.store, version)
        kept = verification.verify_checkpoints(session, opened.store, version)
        name = f"{version.advisor.slug}@{version.number}"
    if as_json:
        print_json({"ref": name, "differences": differences, "checkpoint_differences": kept})
    for line in [*differences, *kept] if not as_json else ():
        print(f"DIFFERS  {line}")
    if not differences and not kept and not as_json:
        print(f"{name} verifies: files, dataset, examples, documents, recipe and digests agree.")
    if differences or kept:
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
    with open_catalogue() as opened, opened.db.read() as session:
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
