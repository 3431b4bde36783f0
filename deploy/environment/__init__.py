"""The Python environment: set-up and repairs."""
