"""Statistics of a corpus and checks of its files, before a run reads it."""
