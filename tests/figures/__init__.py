"""Checks numbers in documents against `docs/figures/*.json`, and generates tables of them."""
