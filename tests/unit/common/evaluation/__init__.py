"""Unit tests of `common/evaluation`."""
