"""The packaged chat templates, their digests, and which of them a base gets.

A template decides which tokens a conversation becomes and which of them are trained, so its digest is part of a recipe. Packaged are templates with
generation marks for the families of the known bases, which neither the models' own templates nor (for Mistral) TRL brings, and `plain` for bases without a
template; `base` is the base's own. Rule: a family's template renders, for turns of user and assistant with an optional system message first, exactly what the
model's own template renders, marks aside (the tests hold the published texts against it). Tools are not among what it renders. Loads no torch.
"""

import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from registry.errors import Invalid
from registry.known_bases import known_base
from registry.manifest import digest_bytes

LLAMA = "llama-3.1"
MISTRAL = "mistral-v0.3"
PHI = "phi-4"
QWEN = "qwen-2.5"
PLAIN = "plain"
BASE = "base"
PACKAGED = (LLAMA, MISTRAL, PHI, PLAIN, QWEN)
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")

# sha256 of models' own templates that a packaged one renders alike: the texts of the known bases' repositories. Phi-4's changed once (its user turn used to open
# the answer), which makes no difference to a conversation that ends with an answer.
_SAME_AS: Mapping[str, str] = {
    "sha256:e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65": LLAMA,
    "sha256:e16746b40344d6c5b5265988e0328a0bf7277be86f1c335156eae07e29c82826": MISTRAL,
    "sha256:a41fb8727c4f1e722e53cb1ea935038a1177b8bdf09387f3b048f9da5255ef3e": PHI,
    "sha256:fe4120415a3858b873955c92ce3a103a95bc97c2cb00b72e62659aaf0f891ee5": PHI,
    "sha256:cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f": QWEN,
}
# For a base that brings no template at all: (model_type, control tokens it must have) -> family.
_BY_TOKENS: tuple[tuple[str, frozenset[str], str], ...] = (
    ("llama", frozenset({"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}), LLAMA),
    ("mistral", frozenset({"<s>", "</s>", "[INST]", "[/INST]"}), MISTRAL),
    ("phi3", frozenset({"<|im_start|>", "<|im_sep|>", "<|im_end|>"}), PHI),
    ("qwen2", frozenset({"<|im_start|>", "<|im_end|>", "<|endoftext|>"}), QWEN),
)


def packaged_template(name: str) -> str:
    """The text of a packaged template. Raises Invalid when there is none of this name."""
    if name not in PACKAGED:
        raise Invalid(f"A packaged chat template is {' or '.join(PACKAGED)}; found {name[:60]!a}.")
    return (files("trainer") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def template_digest(text: str) -> str:
    """sha256 over the template's UTF-8 bytes, as sha256:<hex>."""
    return digest_bytes(text.encode("utf-8"))


@cache
def packaged_digest(name: str) -> str:
    """`template_digest` of a packaged template."""
    return template_digest(packaged_template(name))


def folder_template(folder: Path) -> str | None:
    """The chat template a model folder brings, or None.

    transformers 5 writes chat_template.jinja and prefers it; older folders carry it in tokenizer_config.json, as a text or as a list of named ones.
    """
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    value = _json_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(value, list):
        value = next((v.get("template") for v in value if isinstance(v, dict) and v.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _json_object(path: Path) -> dict[str, Any]:
    """A JSON file of the base's folder; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Invalid(f"{path.name} in the base's folder is not a JSON object.", hint="Download the base again.")
    return value


def known_template(repo: str, own_sha256: str | None) -> str | None:
    """The packaged template of a known hub id, or the one that renders as the base's own (by its digest) does; None where neither is known."""
    known = known_base(repo)
    if known is not None:
        return known.chat_template
    if own_sha256 is None:
        return None
    return _SAME_AS.get(own_sha256) or next((name for name in PACKAGED if packaged_digest(name) == own_sha256), None)


def choose_template(repo: str, config: Mapping[str, Any], folder: Path) -> str:
    """Which template a base gets: a name of PACKAGED, or BASE.

    In this order: the known base's; the packaged one that is the same as the base's own; without an own one, the family's that its model_type and control
    tokens say; the base's own where it can tell the assistant's words apart; `plain`. Raises Invalid for a tokenizer file that is no JSON.
    """
    own = folder_template(folder)
    found = known_template(repo, template_digest(own) if own else None)
    if found is not None:
        return found
    if own is None:
        return _by_tokens(config, folder)
    return BASE if tells_answers(own) else PLAIN


def _by_tokens(config: Mapping[str, Any], folder: Path) -> str:
    has = _control_tokens(folder)
    return next((name for kind, needs, name in _BY_TOKENS if config.get("model_type") == kind and needs <= has), PLAIN)


def _control_tokens(folder: Path) -> frozenset[str]:
    """The special tokens that the tokenizer's files name: tokenizer.json's added_tokens, or tokenizer_config.json's added_tokens_decoder."""
    added = _json_object(folder / "tokenizer.json").get("added_tokens") or []
    decoder = _json_object(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    entries = [*added, *(decoder.values() if isinstance(decoder, dict) else ())]
    return frozenset(str(entry.get("content")) for entry in entries if isinstance(entry, dict))


def tells_answers(template: str) -> bool:
    """Whether a template says which words of a question and an answer are the assistant's: by its marks, or because the answer only adds to the prompt.

    True where jinja2 is not installed: the training then finds out. Rendered in jinja's sandbox, as the training would.
    """
    if importlib.util.find_spec("jinja2") is None:
        return True
    question, answer = {"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "It is so."}
    try:
        before, after = render(template, [question], prompt=True), render(template, [question, answer])
    except Exception:  # noqa: BLE001 - a foreign template may raise anything; whatever it is, it cannot be used
        return False
    return answer["content"] in after if MARKS.search(template) else after.startswith(before) and answer["content"] in after[len(before) :]


def render(template: str, messages: list[dict[str, str]], *, prompt: bool = False, bos: str = "<s>", eos: str = "</s>") -> str:
    """What a chat template makes of messages, marks ignored; `prompt` adds the opening of an answer. Raises jinja2's errors. Needs jinja2, no tokenizer."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Marks(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %}, as transformers knows it."""

        tags = {"generation"}  # noqa: RUF012 - jinja's own way of declaring tags

        def parse(self, parser: Any) -> Any:
            """The block's body in its place."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    # The settings of transformers 5.23 (utils/chat_template_utils.py).
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Marks, "jinja2.ext.loopcontrols"]
    )
    sandbox.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    sandbox.globals |= {"raise_exception": refuse, "strftime_now": lambda _form: "26 Jul 2024"}
    names = {"messages": messages, "add_generation_prompt": prompt, "bos_token": bos, "eos_token": eos}
    return sandbox.from_string(template).render(**names)
