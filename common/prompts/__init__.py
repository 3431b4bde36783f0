"""Prompts of records."""
