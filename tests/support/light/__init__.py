"""Engines that start in a second or two and die like vLLM's, and a run of them."""
