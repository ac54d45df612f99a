"""Conversations -> tokens and labels. Loads transformers (through the tokenizer it is given).

Rules: the loss is computed on the assistant's words and their end token, and on nothing else; an example of which nothing would be trained is refused; an
example that does not fit is refused, never cut, because a cut eats the end of an answer (trl#3927). Templates with generation marks say themselves what is
trained; for others, an answer is what a longer conversation adds to the prompt, and a template for which that does not hold is refused.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import Invalid
from trainer.chat import BASE, packaged_template, template_digest
from trainer.examples import Conversation
from trainer.recipe import Recipe

IGNORED = -100  # what torch's cross-entropy leaves out
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Encoded:
    """One example in tokens: `input_ids` and `labels` of the same length; a label is the token itself where it is trained and -100 elsewhere."""

    sha256: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained(self) -> int:
        """How many tokens the loss is computed on."""
        return sum(label != IGNORED for label in self.labels)


def recipe_template(recipe: Recipe, tokenizer: Any) -> str:
    """The chat template a recipe names. Raises Invalid when its digest is another than the recipe's."""
    text = tokenizer.chat_template if recipe.chat_template == BASE else packaged_template(recipe.chat_template)
    if not isinstance(text, str):
        raise Invalid("The base brings no chat template, but the recipe asks for the base's own.", hint='Use "chat_template": "plain".')
    if template_digest(text) != recipe.chat_template_sha256:
        raise Invalid(
            f"The chat template {recipe.chat_template} is another than the recipe's: expected {recipe.chat_template_sha256}, found {template_digest(text)}.",
            hint="Train with a new recipe, or with the base and the release the recipe was made for.",
        )
    return text


def encode_all(conversations: Iterable[Conversation], tokenizer: Any, template: str, max_length: int) -> list[Encoded]:
    """Encode every conversation, in order. Raises Invalid and names the first example that is too long, or of which nothing would be trained."""
    forbidden = [token for token in tokenizer.all_special_tokens if token.strip()]
    return [_checked(conversation, tokenizer, template, max_length, forbidden) for conversation in conversations]


def _checked(conversation: Conversation, tokenizer: Any, template: str, max_length: int, forbidden: Sequence[str]) -> Encoded:
    for message in conversation.messages:
        found = next((token for token in forbidden if token in message["content"]), None)
        if found is not None:  # it would become the control token itself and end or open a turn
            raise Invalid(f"{conversation.where} contains {found}, a control token of this base.", hint="Write it in another way.")
    encoded = encode(conversation, tokenizer, template)
    if encoded.trained == 0:
        raise Invalid(
            f"{conversation.where}: not one token of this example would be trained.", hint="Look at its last turn and at the chat template."
        )
    if len(encoded.input_ids) > max_length:
        raise Invalid(
            f"{conversation.where} ({conversation.sha256[:19]}...) has {len(encoded.input_ids)} tokens; at most {max_length} fit, and an answer is never cut.",
            hint="Shorten or remove it, or raise max_length in the recipe if the base's context allows it.",
        )
    return encoded


def encode(conversation: Conversation, tokenizer: Any, template: str) -> Encoded:
    """Tokens and labels of one conversation, by the template's generation marks or, without marks, by what each answer adds."""
    messages = [dict(m) for m in conversation.messages]
    if _MARKS.search(template):
        out = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = list(out["input_ids"]), list(out["assistant_masks"])
    else:
        ids, mask = _by_difference(messages, tokenizer, template, conversation.where)
    labels = tuple(token if trained else IGNORED for token, trained in zip(ids, mask, strict=True))
    return Encoded(conversation.sha256, tuple(ids), labels)


def _by_difference(messages: list[dict[str, str]], tokenizer: Any, template: str, where: str) -> tuple[list[int], list[int]]:
    """Tokens and a 0/1 mask; a token is trained when it begins inside an answer (up to and with the end token)."""

    def render(count: int, *, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(messages[:count], chat_template=template, tokenize=False, add_generation_prompt=prompt))

    full = render(len(messages), prompt=False)
    spans: list[tuple[int, int]] = []
    for index in range(1, len(messages), 2):
        before, after = render(index, prompt=True), render(index + 1, prompt=False)
        if not (full.startswith(before) and full.startswith(after.rstrip()) and len(after) > len(before)):
            raise Invalid(
                f"{where}: the base's chat template rewrites earlier turns, so it does not say which words are the assistant's.",
                hint="Train on single-turn pairs, or choose another base.",
            )
        end = full.find(tokenizer.eos_token, len(before), len(after)) if tokenizer.eos_token else -1
        spans.append((len(before), end + len(tokenizer.eos_token) if end >= 0 else len(after)))
    out = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    mask = [int(any(start <= left < stop and left < right for start, stop in spans)) for left, right in out["offset_mapping"]]
    return list(out["input_ids"]), mask
