"""Unit tests of `learner/publishing`."""
