"""Unit tests of `rollout.fleet`."""
