"""Checks before a run starts: inputs, placement, memory."""
