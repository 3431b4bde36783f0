"""Unit tests of `common/prompts`."""
