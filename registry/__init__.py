"""The record: which advisors exist, which adapter versions they have, what those were trained on, and which may be served.

Nothing in this package imports torch. The rooms are described in docs/architecture.md; the import rules in pyproject.toml.
"""

__version__ = "0.1.0"
