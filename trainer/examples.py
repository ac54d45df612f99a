"""Reads the conversations of a dataset folder. Loads no torch.

Rules: a conversation alternates user and assistant, starts with the user and ends with the assistant; a system turn is refused, because the persona's prompt
is never baked into weights; an empty turn is refused; every refusal names file and line.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import Invalid
from registry.refs import DIGEST

DATASET_FORMAT = "dataset/1"
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


def read_dataset(folder: Path) -> Conversations:
    """Read manifest.json, train.jsonl and heldout.jsonl. Raises Invalid with file, line and what was expected there."""
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        raise Invalid(f"The dataset folder has no {MANIFEST_FILE}, so it is not complete.", hint="Export the dataset again.")
    facts = _json(manifest.read_text(encoding="utf-8"), MANIFEST_FILE)
    sha256 = facts.get("sha256")
    if facts.get("format") != DATASET_FORMAT or not isinstance(sha256, str) or not DIGEST.fullmatch(sha256):
        raise Invalid(f'{MANIFEST_FILE} holds {{"format": "{DATASET_FORMAT}", "sha256": "sha256:..."}}; found {str(facts)[:120]}.')
    train, heldout = _read(folder / TRAIN_FILE), _read(folder / HELDOUT_FILE)
    if len(train) < FEWEST:
        found = "no conversation" if not train else "one conversation"
        raise Invalid(
            f"A training needs at least {FEWEST} conversations; {TRAIN_FILE} has {found}.",
            hint="Import more pairs, or hold out fewer of them.",
        )
    return Conversations(sha256, train, heldout)


def _read(path: Path) -> tuple[Conversation, ...]:
    if not path.is_file():
        raise Invalid(
            f"The dataset folder has no {path.name}.", hint="Export the dataset again; the file may be empty, but it must be there."
        )
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")  # not splitlines(): U+2028 and others may stand inside a JSON text
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
