"""What a person must have read before a pipeline's run: whose words train the adapter, and under which terms. Shown once; the acknowledgement is part of
the run.

These are pointers, not legal advice: terms change, and the provider's own text rules. They stand here, and not in the pipeline, so that the API can show them.
"""

import hashlib

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
FORUM = (
    "Forum posts belong to the people who wrote them. Reddit's Responsible Builder Policy (November 2025) asks for Reddit's approval before its API is "
    "used, for commercial use under a contract of its own, and its terms do not allow posts to train models without consent. This agent reads questions "
    "only, to learn what people ask; it removes user names, addresses and numbers, and no post may carry an answer. Whether you may use your credentials "
    "or an exported file for this is yours to check and your responsibility; so is deleting what its author deletes."
)


def terms_for(provider: str, *, forum: str | None = None) -> str:
    """The words to show before a run with a provider of `SYNTHESIS`; `forum` is added where forum threads are read."""
    return SYNTHESIS[provider] + (f"\n{forum}" if forum else "")


def terms_digest(text: str) -> str:
    """Names the very words that were acknowledged: `sha256:` and the hex of their UTF-8 bytes."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
