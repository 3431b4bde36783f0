"""Where a user's reward runs: a process, a Ray actor, an HTTP service."""
