"""Unit tests of `reward`."""
