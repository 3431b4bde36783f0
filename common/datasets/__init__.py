"""Corpora: one file each, one common record."""
