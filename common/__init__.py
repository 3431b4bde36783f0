"""Code that all planes share: types, protocols, configuration, media, model families."""
