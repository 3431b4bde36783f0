"""Checkpoints: written by every rank, completed by a manifest."""
