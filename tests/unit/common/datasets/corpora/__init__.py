"""Unit tests of `common/datasets/corpora`."""
