"""The synthetic corpus: drawn faces and synthesized speech."""
