"""Parameters and optimizer state under DeepSpeed's ZeRO."""
