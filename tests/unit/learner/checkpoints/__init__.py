"""Unit tests of `learner/checkpoints`."""
