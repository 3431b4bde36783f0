"""Unit tests of `common/models`."""
