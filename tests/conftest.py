"""Before any product module is imported: shapes and dtypes of the tensor functions are checked in every test."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["learner.advantage", "learner.loss", "learner.logprobs"], "beartype.beartype")
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("repeatable")
