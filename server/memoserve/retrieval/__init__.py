"""Passages of the source text: cut, embedded, searched."""
