"""Unit tests of `common/config`."""
