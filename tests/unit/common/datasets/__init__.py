"""Unit tests of `common/datasets`."""
