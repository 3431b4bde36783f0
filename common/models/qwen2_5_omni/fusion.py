"""The checkpoint tensors that vLLM fuses into one layer: they are published together or not at all."""

FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "q": "qkv",
    "k": "qkv",
    "v": "qkv",
}
TOWER_PREFIXES = ("thinker.visual.", "thinker.audio_tower.")
"""Parameters whose change makes the encoder cache's entries stale."""


def engine_layer(name: str) -> str:
    """The vLLM layer that contains a checkpoint tensor.

    `thinker.model.layers.0.self_attn.k_proj.bias` -> `thinker.model.layers.0.self_attn.qkv_proj`
    """
    path, _, _ = name.rpartition(".")
    parent, _, leaf = path.rpartition(".")
    # the audio tower does not fuse its projections
    if name.startswith("thinker.audio_tower."):
        return path
    return f"{parent}.{FUSED.get(leaf, leaf)}" if parent else path
