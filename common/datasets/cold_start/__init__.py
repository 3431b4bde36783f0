"""Data for the cold start: explanations by rejection sampling."""
