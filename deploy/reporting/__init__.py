"""Progress, summary and closing tables of a run."""
