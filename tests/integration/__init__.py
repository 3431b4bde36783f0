"""Real local Ray, real vLLM on CPU, real DeepSpeed, a tiny model."""
