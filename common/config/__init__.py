"""The configuration tree: one frozen pydantic file per plane."""
