"""Unit tests of `learner/loops`."""
