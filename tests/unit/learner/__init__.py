"""Unit tests of `learner`."""
