"""The rollout plane: vLLM engines that generate groups and receive weights."""
