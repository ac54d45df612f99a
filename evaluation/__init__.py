"""Figures about an adapter: pure functions from measurements to statistics."""
