"""Unit tests of `learner/training`."""
