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
# What a training starts from unless somebody says another seed. The largest is what every library that is seeded takes (a signed 32-bit number).
DEFAULT_SEED = 42
MAX_SEED = 2**31 - 1
# Every setting that a recipe has (trainer.recipe.Recipe, which the web process does not import; a test holds the two equal).
RECIPE_SETTINGS = (
    "method",
    "device",
    "dtype",
    "quantization",
    "double_quantization",
    "r",
    "alpha",
    "dropout",
    "targets",
    "target_modules",
    "rslora",
    "lora_plus_ratio",
    "learning_rate",
    "epochs",
    "max_steps",
    "batch_size",
    "gradient_accumulation",
    "scheduler",
    "warmup",
    "weight_decay",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "max_length",
    "batching",
    "pack_length",
    "gradient_checkpointing",
    "attention",
    "loss_type",
    "loss_on",
    "chat_template",
    "chat_template_sha256",
    "heldout_max_examples",
    "threads",
    "kept_checkpoints",
    "processes",
    "sharding",
    "format",
)
