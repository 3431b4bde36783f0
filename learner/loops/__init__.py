"""The driver's loops: GRPO, supervised training, evaluation."""
