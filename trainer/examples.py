"""Reads the conversations of a dataset folder. Loads no torch.

Rules: a conversation alternates user and assistant, starts with the user and ends with the assistant; a system turn is refused, because the persona's prompt
is never baked into weights; an empty turn is refused; every refusal names file and line; files that are not those the folder was sealed with are refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import Invalid
from registry.manifest import digest_bytes
from registry.refs import DIGEST

FOLDER_FORMAT = "dataset-folder/2"
MANIFEST_FILE = "manifest.json"
TRAIN_FILE = "train.jsonl"
HELDOUT_FILE = "heldout.jsonl"
FEWEST = 2  # one pair can be learnt by heart and says nothing about another


@dataclass(frozen=True)
class Conversation:
    """One example: its digest in the registry, where it stands ('train.jsonl line 3'), and its turns as {"role", "content"}."""

    sha256: str
    where: str
    messages: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Conversations:
    """The examples of a dataset folder in their order, and the dataset's digest."""

    dataset_sha256: str
    train: tuple[Conversation, ...]
    heldout: tuple[Conversation, ...]


def seal(folder: Path, sha256: str) -> None:
    """Write manifest.json beside train.jsonl and heldout.jsonl, last of all: the dataset's digest, and each file's digest and number of lines. Raises OSError."""
    files = {name: _facts((folder / name).read_bytes()) for name in (TRAIN_FILE, HELDOUT_FILE)}
    text = json.dumps({"format": FOLDER_FORMAT, "sha256": sha256, "files": files}, indent=1, sort_keys=True) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def _facts(data: bytes) -> dict[str, Any]:
    return {"sha256": digest_bytes(data), "lines": data.count(b"\n")}


def read_dataset(folder: Path) -> Conversations:
    """Read manifest.json, train.jsonl and heldout.jsonl. Raises Invalid with file, line and what was expected there.

    Both files must be, byte for byte, those that the folder was sealed with.
    """
    sha256, files = _manifest(folder / MANIFEST_FILE)
    train, heldout = (_read(folder / name, files[name]) for name in (TRAIN_FILE, HELDOUT_FILE))
    if len(train) < FEWEST:
        found = "no conversation" if not train else "one conversation"
        raise Invalid(
            f"A training needs at least {FEWEST} conversations; {TRAIN_FILE} has {found}.",
            hint="Import more pairs, or hold out fewer of them.",
        )
    return Conversations(sha256, train, heldout)


def _manifest(path: Path) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    """(the dataset's digest, the facts of each file)."""
    if not path.is_file():
        raise Invalid(f"The dataset folder has no {MANIFEST_FILE}, so it is not complete.", hint="Export the dataset again.")
    facts = _json(path.read_text(encoding="utf-8", errors="replace"), MANIFEST_FILE)
    sha256, files = facts.get("sha256"), facts.get("files")
    named = isinstance(sha256, str) and DIGEST.fullmatch(sha256) and isinstance(files, dict) and set(files) == {TRAIN_FILE, HELDOUT_FILE}
    if sha256 is None or files is None or facts.get("format") != FOLDER_FORMAT or not named or not all(map(_are_facts, files.values())):
        raise Invalid(
            f'{MANIFEST_FILE} holds {{"format": "{FOLDER_FORMAT}", "sha256": "sha256:...", "files": {{name: {{"sha256", "lines"}}}}}}; '
            f"found {str(facts)[:120]}.",
            hint="Export the dataset again.",
        )
    return sha256, files


def _are_facts(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"sha256", "lines"}
        and isinstance(value["sha256"], str)
        and DIGEST.fullmatch(value["sha256"]) is not None
        and type(value["lines"]) is int
    )


def _require_same(name: str, expected: Mapping[str, Any], data: bytes) -> None:
    found = _facts(data)
    if found != expected:
        raise Invalid(
            f"{name} changed on disk after it was exported: expected {expected['sha256']} ({expected['lines']} lines), "
            f"found {found['sha256']} ({found['lines']} lines).",
            hint="Nothing was trained. Run the same command again: it exports the dataset anew.",
        )


def _read(path: Path, expected: Mapping[str, Any]) -> tuple[Conversation, ...]:
    if not path.is_file():
        raise Invalid(
            f"The dataset folder has no {path.name}.", hint="Export the dataset again; the file may be empty, but it must be there."
        )
    data = path.read_bytes()
    _require_same(path.name, expected, data)
    try:
        lines = data.decode("utf-8").split("\n")  # not splitlines(): U+2028 and others may stand inside a JSON text
    except UnicodeDecodeError as error:
        raise Invalid(f"{path.name} is not UTF-8 text: byte {error.start}.", hint="Export the dataset again.") from None
    return tuple(_conversation(line, f"{path.name} line {number}") for number, line in enumerate(lines, start=1) if line.strip())


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Invalid(f"{where} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise Invalid(f"{where} is a JSON object; found {type(value).__name__}.")
    return value


def _conversation(line: str, where: str) -> Conversation:
    value = _json(line, where)
    sha256, messages = value.get("sha256"), value.get("messages")
    if not isinstance(sha256, str) or not DIGEST.fullmatch(sha256):
        raise Invalid(f"{where}: expected the example's sha256; found {str(sha256)[:80]!a}.")
    if not isinstance(messages, list):
        raise Invalid(f"{where}: expected a list of messages; found {type(messages).__name__}.")
    return Conversation(sha256, where, _turns(messages, where))


def _turns(messages: Sequence[Any], where: str) -> tuple[dict[str, str], ...]:
    turns: list[dict[str, str]] = []
    for index, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role == "system":
            raise Invalid(
                f"{where} has a system turn; the persona's prompt is never trained.", hint="Import the data without its system turns."
            )
        wanted = "user" if index % 2 == 0 else "assistant"
        if role != wanted:
            raise Invalid(f"{where}, turn {index + 1}: expected the {wanted}, because turns alternate; found {str(role)[:40]!a}.")
        if not isinstance(content, str) or not content.strip():
            raise Invalid(f"{where}, turn {index + 1}: the {wanted} says nothing.", hint="Remove the pair or fill it.")
        turns.append({"role": wanted, "content": content})
    if not turns or turns[-1]["role"] != "assistant":
        raise Invalid(f"{where}: a conversation ends with the assistant's words; found {len(turns)} turns.")
    return tuple(turns)
