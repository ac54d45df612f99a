"""The terms to acknowledge before a run, under the names the pipeline knows; the words stand in registry/terms.py, where the API finds them too."""

from registry.terms import SYNTHESIS, terms_digest, terms_for

__all__ = ["SYNTHESIS", "terms_digest", "terms_for"]
