"""The packaged chat templates and their digests.

A template decides which tokens a conversation becomes and which of them are trained, so its digest is part of a recipe. Three choices: `mistral-v0.3`
(packaged, with generation marks, which neither the model's own template nor TRL brings), `plain` (packaged, for bases without a template), and `base` (the
base's own). Loads no torch.
"""

import json
from importlib.resources import files
from pathlib import Path

from registry.errors import Invalid
from registry.manifest import digest_bytes

MISTRAL = "mistral-v0.3"
PLAIN = "plain"
BASE = "base"
PACKAGED = (MISTRAL, PLAIN)


def packaged_template(name: str) -> str:
    """The text of a packaged template. Raises Invalid when there is none of this name."""
    if name not in PACKAGED:
        raise Invalid(f"A packaged chat template is {' or '.join(PACKAGED)}; found {name[:60]!a}.")
    return (files("trainer") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def template_digest(text: str) -> str:
    """sha256 over the template's UTF-8 bytes, as sha256:<hex>."""
    return digest_bytes(text.encode("utf-8"))


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
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    try:
        value = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    except (json.JSONDecodeError, AttributeError):
        raise Invalid(f"{config.name} in the base's folder is not a JSON object.", hint="Download the base again.") from None
    if isinstance(value, list):
        value = next((v.get("template") for v in value if isinstance(v, dict) and v.get("name") == "default"), None)
    return value if isinstance(value, str) else None
