"""The stages of a run: evaluation, cold start, GRPO."""
