"""Ops of beacon-compressed attention over paged keys and values; the doors are in ``ops``."""
