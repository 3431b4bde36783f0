"""Unit tests of `deploy/reporting`."""
