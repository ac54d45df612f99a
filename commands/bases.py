"""Base models that this product knows by name."""

from typing import TYPE_CHECKING, Any

from commands.frame import Json, bases_app, print_json, table

if TYPE_CHECKING:
    from registry.known_bases import KnownBase

_MILLION = 1_000_000


@bases_app.command("list")
def list_bases(as_json: Json = False) -> None:
    """List the bases with a card: revision, licence, sizes, and what a LoRA of rank 16 trains on each. Any other hub id or folder works as well."""
    from registry.known_bases import known_bases

    rows = [_row(base) for base in known_bases()]
    if as_json:
        print_json(rows)
        return
    columns = ("base", "revision", "licence", "parameters, 1e9", "context", "rank 16 on attention, 1e6", "on all-linear, 1e6")
    table("", columns, [tuple(v for k, v in row.items() if k not in {"licence_page", "gated", "notes"}) for row in rows])
    for row in rows:
        if row["gated"]:
            print(f"{row['base']} is gated: accept its licence at {row['licence_page']}, then set HF_TOKEN.")


def _row(base: "KnownBase") -> dict[str, Any]:
    return {
        "base": base.repo,
        "revision": base.revision,
        "licence": base.licence,
        "parameters": round(base.parameters / 1e9, 2),
        "context": base.config["max_position_embeddings"],
        "attention": round(base.lora_parameters(16, "attention") / _MILLION, 1),
        "all_linear": round(base.lora_parameters(16, "all-linear") / _MILLION, 1),
        "licence_page": base.licence_page,
        "gated": base.gated,
        "notes": [note for note in (base.revision_note, base.template_note) if note],
    }
