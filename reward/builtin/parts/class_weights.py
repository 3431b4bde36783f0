"""Weights of classes that make rare ones count as much as common ones."""

from collections.abc import Mapping


def class_weights(frequencies: Mapping[str, float], *, power: float, cap: float) -> dict[str, float]:
    """Weights w = min(cap, s f^-power) of classes with the frequencies f > 0; s makes their mean, sum f w, 1."""
    total = sum(frequencies.values())
    # the rarest class comes first, as it reaches the cap first
    shares = sorted((f / total, name) for name, f in frequencies.items())
    weights = dict.fromkeys(frequencies, cap)
    num_capped, capped_share = 0, 0.0
    while num_capped < len(shares):
        scale = (1.0 - cap * capped_share) / sum(f ** (1.0 - power) for f, _ in shares[num_capped:])
        rarest = shares[num_capped][0]
        if scale * rarest**-power <= cap:
            return weights | {name: scale * f**-power for f, name in shares[num_capped:]}
        num_capped, capped_share = num_capped + 1, capped_share + rarest
    return weights
