"""Wiring: the configuration made into actors, and what a deployment needs."""
