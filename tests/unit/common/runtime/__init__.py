"""Unit tests of `common/runtime`."""
