"""Rewards to start one's own from: one of each kind and style."""
