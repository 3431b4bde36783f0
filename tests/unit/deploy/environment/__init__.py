"""Unit tests of `deploy/environment`."""
