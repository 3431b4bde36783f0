"""Unit tests of `rollout`."""
