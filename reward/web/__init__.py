"""The reward service over HTTP."""
