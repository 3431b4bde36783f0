"""Rewards and reward requests for tests."""
