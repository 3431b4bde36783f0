"""Unit tests of `learner/records`."""
