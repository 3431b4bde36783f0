"""The evaluation of a policy."""
