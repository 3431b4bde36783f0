"""Qwen2.5-Omni (thinker): template, processor, learner module, tiny checkpoints."""
