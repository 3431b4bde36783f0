"""No Ray, no vLLM, no network: under a minute on one core."""
