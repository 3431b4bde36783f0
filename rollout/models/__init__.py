"""What vLLM needs of each family: processed prompts as engine inputs."""
