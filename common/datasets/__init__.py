"""Readers of corpora: a file per corpus, the same record for all."""
