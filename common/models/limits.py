"""Limits that hold for every family."""

MAX_LOGITS = 2**26
"""Logits that a policy computes at one time: 256 MiB in float32, 441 tokens of a vocabulary of 151,936."""
