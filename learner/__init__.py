"""The learner plane: DeepSpeed ranks, GRPO, publishing, and the loop."""
