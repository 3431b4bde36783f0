"""Unit tests of `reward/hosts`."""
