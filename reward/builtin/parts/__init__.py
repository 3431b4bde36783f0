"""Shared parts of the built-in rewards."""
