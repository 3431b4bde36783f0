"""The records of a run: samples, metrics, curves, events."""
