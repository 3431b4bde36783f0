"""Clips, media files and corpora for tests."""
