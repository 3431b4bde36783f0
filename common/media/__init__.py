"""Clips: decoding, lengths, framing, and conditions such as silence."""
