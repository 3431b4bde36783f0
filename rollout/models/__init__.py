"""Processed prompts of each family as vLLM engine inputs."""
