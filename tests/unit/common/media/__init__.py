"""Unit tests of `common/media`."""
