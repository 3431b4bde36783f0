"""Benchmarks of the fleet of engines."""
