"""What only a GPU can show, prepared and rehearsed without one: `python -m tests.gpu.check`."""
