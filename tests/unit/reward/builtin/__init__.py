"""Unit tests of `reward/builtin`."""
