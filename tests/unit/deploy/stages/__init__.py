"""Unit tests of `deploy/stages`."""
