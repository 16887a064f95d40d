"""Stubs of package memoserve.v1."""
