"""Unit tests of `common/datasets/synthetic`."""
