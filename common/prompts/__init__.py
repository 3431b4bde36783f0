"""Turns a record into the prompt that both planes consume."""
