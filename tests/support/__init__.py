"""Builders and fault injection for tests."""
