"""Figures in documents are held against `docs/figures/*.json`, and tables of them are generated."""
