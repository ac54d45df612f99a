"""The machine a training runs on: leave a borrowed one as it was found."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.frame import DryRun, Json, app, open_catalogue, print_json, table

if TYPE_CHECKING:
    from jobs.cleanup import Cleaned


@app.command()
def cleanup(
    dry_run: DryRun = False,
    registry_stays: Annotated[
        bool,
        typer.Option(
            "--registry-stays", help="Clean although catalogue or store lie in this home: the machine stays yours, and they are left alone."
        ),
    ] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Give up trainings that are not registered yet.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what this tool put on this machine (model caches, training folders, bytecode), once every version trained here is safe in the registry."""
    from jobs.cleanup import Wish, clean

    with open_catalogue() as opened:
        done = clean(opened.db, opened.store, opened.settings.home, Wish(dry_run, registry_stays, discard))
    if as_json:
        print_json(_as_json(done))
        return
    columns = ("what", "name", "files", "bytes before", "bytes after", "note")
    table("Would be removed" if dry_run else "Removed", columns, [(i.kind, i.name, i.files, i.before, i.after, i.note) for i in done.items])
    if done.kept:
        table("Left in this home", ("name", "bytes", "why"), [(k.name, k.bytes, k.why) for k in done.kept])
    checked = f"{done.versions_checked} version{'' if done.versions_checked == 1 else 's'} trained here read again in the store, each file with its digest"
    print(f"{done.before} bytes {'would go' if dry_run else f'before, {done.after} after'}; {checked}.")


def _as_json(done: "Cleaned") -> dict[str, Any]:
    items = [
        {"kind": i.kind, "name": i.name, "files": i.files, "bytes_before": i.before, "bytes_after": i.after, "note": i.note}
        for i in done.items
    ]
    return {
        "dry_run": done.dry_run,
        "versions_checked": done.versions_checked,
        "bytes_before": done.before,
        "bytes_after": done.after,
        "items": items,
        "kept": [{"name": k.name, "bytes": k.bytes, "why": k.why} for k in done.kept],
    }
