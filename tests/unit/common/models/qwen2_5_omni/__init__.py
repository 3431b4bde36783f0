"""Unit tests of `common/models/qwen2_5_omni`."""
