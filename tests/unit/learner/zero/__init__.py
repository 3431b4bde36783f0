"""Unit tests of `learner/zero`."""
