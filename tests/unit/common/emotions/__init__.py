"""Unit tests of `common/emotions`."""
