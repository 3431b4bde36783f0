"""The reward plane: verifiable rewards, summed by a rubric, served by an actor."""
