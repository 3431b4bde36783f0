"""Unit tests of `reward/web`."""
