"""What every plane shares: types, seams, configuration, media, model families."""
