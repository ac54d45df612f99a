"""The bases this product knows by name: one JSON card each, in this folder.

Rules: a card states only what was seen in public (its `evidence` says where); what could not be seen is null, with the reason beside it (`revision_note`,
`template_note`), and is never guessed. `config` holds the figures of the base's config.json that shapes follow from; head_dim is hidden size over heads where
config.json leaves it out. Counts of trainable parameters are computed from the shapes, not written down.

What a card does not know: the weights themselves, and whether the hub still serves them. It is pure: no network, no database, no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from registry.adapter_files.cards import BLOCK, BaseCard, base_card_from_config
from registry.errors import Invalid

CARD_FORMAT = "known-base/1"
PROFILES = ("attention", "all-linear")


@dataclass(frozen=True)
class KnownBase:
    """A base with a card. `parameters` is the number of all weights; `licence_page` is where a gated base's licence is accepted.

    `former_names` are older hub ids of the same repository. `chat_template` names the packaged template that renders as the base's own does;
    `chat_template_sha256` is the digest of that own one, and `end_of_turn` the token that ends an answer.
    """

    repo: str
    former_names: tuple[str, ...]
    revision: str | None
    revision_note: str | None
    licence: str
    licence_page: str
    gated: bool
    token_variable: str | None
    parameters: int
    config: Mapping[str, Any]
    chat_template: str
    chat_template_sha256: str | None
    template_note: str | None
    end_of_turn: str
    evidence: tuple[str, ...]

    @property
    def card(self) -> BaseCard:
        """The gate's card: modules, their shapes and the number of layers, at this card's revision."""
        found = base_card_from_config(self.config, self.repo, self.revision)
        if found is None:
            raise Invalid(f"The packaged card of {self.repo} names an architecture without shapes.", hint="Install this program again.")
        return found

    def lora_parameters(self, rank: int, profile: str) -> int:
        """Trainable parameters of a LoRA of this rank on a profile (attention or all-linear). Raises Invalid for another profile."""
        if profile not in PROFILES:
            raise Invalid(f"A profile is {' or '.join(PROFILES)}; found {profile[:60]!a}.")
        card = self.card
        chosen = [shape for name, shape in card.modules.items() if profile == "all-linear" or BLOCK[name] == "self_attn"]
        return card.layers * rank * sum(inside + outside for inside, outside in chosen)


def known_bases() -> tuple[KnownBase, ...]:
    """Every card, sorted by hub id."""
    return _cards()


def known_base(repo: str) -> KnownBase | None:
    """The card of a hub id (upper and lower case alike, as on the hub; a former name too), or None."""
    return _by_name().get(repo.lower())


@cache
def _cards() -> tuple[KnownBase, ...]:
    folder = files("registry.known_bases")
    cards = [_read(json.loads(entry.read_text(encoding="utf-8"))) for entry in folder.iterdir() if entry.name.endswith(".json")]
    return tuple(sorted(cards, key=lambda card: card.repo.lower()))


@cache
def _by_name() -> Mapping[str, KnownBase]:
    return {name.lower(): card for card in _cards() for name in (card.repo, *card.former_names)}


def _read(value: Mapping[str, Any]) -> KnownBase:
    if value["format"] != CARD_FORMAT:
        raise Invalid(
            f"A packaged card has the format {CARD_FORMAT}; found {str(value['format'])[:40]!a}.", hint="Install this program again."
        )
    licence, chat = value["licence"], value["chat"]
    return KnownBase(
        repo=value["repo"],
        former_names=tuple(value["former_names"]),
        revision=value["revision"],
        revision_note=value["revision_note"],
        licence=licence["name"],
        licence_page=licence["page"],
        gated=licence["gated"],
        token_variable=licence["token_variable"],
        parameters=value["parameters"],
        config=value["config"],
        chat_template=chat["template"],
        chat_template_sha256=chat["template_sha256"],
        template_note=chat["template_note"],
        end_of_turn=chat["end_of_turn"],
        evidence=tuple(value["evidence"]),
    )
