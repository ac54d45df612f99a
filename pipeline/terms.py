"""What a person must have read before a run: whose words train the adapter, and under which terms. Shown once; the acknowledgement is part of the run.

These are pointers, not legal advice: terms change, and the provider's own text rules.
"""

from pipeline.values import text_sha256

SYNTHESIS = {
    "anthropic": (
        "Terms: the training pairs will be written by Claude. Anthropic's commercial terms bar using its outputs to train models that compete with"
        " Anthropic's without written permission; a conversational adapter may or may not fall under that, and this product cannot decide it for you."
        " If in doubt ask Anthropic, or write with a model whose terms allow training: --provider openai with an endpoint of your own."
    ),
    "openai": (
        "Terms: the training pairs will be written by the model behind your OpenAI-compatible endpoint. Whether its outputs may train another model is"
        " for its provider's terms, or its licence, to say; read them first."
    ),
}


def terms_for(provider: str, *, forum: str | None = None) -> str:
    """The words to show before a run; `forum` is added where forum threads are read."""
    return SYNTHESIS[provider] + (f"\n{forum}" if forum else "")


def terms_digest(text: str) -> str:
    """Names the very words that were acknowledged."""
    return text_sha256(text)
