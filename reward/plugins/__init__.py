"""The user's rewards: loaded, checked and called."""
