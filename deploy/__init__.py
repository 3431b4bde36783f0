"""The composition root: makes the actors of a run from its configuration, and runs its stages."""
