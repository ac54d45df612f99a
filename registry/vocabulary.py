"""The closed lists of words that the catalogue, the imports and the cards share. Pure; the tables' CHECK constraints are made from them."""

VERSION_STATES = ("pending", "ready", "withdrawn")
VERSION_KINDS = ("lora", "full")
ORIGINS = ("human", "synthesised", "edited")
CLASSES = ("academic", "institutional", "industry", "professional", "clinical", "community", "unclassified")
CLASS_LABELS = {
    "academic": "Academic research",
    "institutional": "Institutions",
    "industry": "Industry research",
    "professional": "Professional publications",
    "clinical": "Clinical material",
    "community": "Community pages",
    "unclassified": "Not classified",
}
REVIEW_STATUSES = ("peer_reviewed", "guideline", "preprint", "editorial", "self_published", "unknown")
EXTENTS = ("full_text", "abstract", "excerpt", "metadata_only")
CHECKS = ("unchecked", "verified", "mismatched", "not_found", "retracted")
# A source in one of these states is no source that anybody should be shown as good (design: mismatched, not found and retracted block promotion).
FAILED_CHECKS = ("mismatched", "not_found", "retracted")
SPLITS = ("train", "heldout")
ROLES = ("answer", "question")
