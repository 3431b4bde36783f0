"""Pairs measured in one run; JSON."""
