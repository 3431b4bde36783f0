"""Weights sent to the rollout engines, and the proofs that they arrived."""
