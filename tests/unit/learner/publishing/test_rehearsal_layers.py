"""Every layer of the model in turn left stale, in the learner's own arithmetic and that of an engine that rounds
elsewhere: a rehearsal finds it and names it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from common.config.data import DataConfig
from common.models.noise import perturbed
from common.models.qwen2_5_omni.fusion import TOWER_PREFIXES, engine_layer
from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy, load_policy
from common.models.registry import family_of
from common.models.tokens import pack_tokens
from common.prompts.probe_clips import probe_prompts
from learner.publishing.rehearsal import NUM_COMPLETIONS, SCALE
from learner.publishing.trial import Layer, Trial
from learner.publishing.verification import Logprobs, minus

NUM_TOKENS = 16
NOT_EXERCISED = ("thinker.audio_tower.audio_bos_eos_token.weight",)


class Side:
    """Noisy weights, and log-probabilities under them."""

    def __init__(self, policy: Qwen2_5OmniPolicy, probes: Any, *, nonce: int) -> None:
        self.policy, self.probes = policy, probes
        self.parameters = dict(policy.named_parameters())
        self.true = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.noisy = {n: perturbed(n, t, scale=SCALE, nonce=nonce) for n, t in self.true.items()}
        self._load(self.noisy)

    def _load(self, values: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.parameters[name].copy_(value)

    @contextmanager
    def stale(self, layer: Layer) -> Iterator[None]:
        """One layer as it was before."""
        self._load({n: self.true[n] for n in layer})
        yield
        self._load({n: self.noisy[n] for n in layer})

    @torch.no_grad()
    def score(self, completions: list[list[list[int]]]) -> Logprobs:
        """Of all tokens, probe by probe; of the first probes where there are fewer completions."""
        batches = [pack_tokens([p], [c], pad_token_id=0) for p, c in zip(self.probes, completions, strict=False)]
        return [self.policy(batch)[0].flatten().tolist() for batch in batches]

    @torch.no_grad()
    def sample(self) -> list[list[list[int]]]:
        """Completions of every probe."""
        generator = torch.Generator().manual_seed(0)
        answers: list[list[list[int]]] = []
        for probe in self.probes:
            rows: list[list[int]] = [[] for _ in range(NUM_COMPLETIONS)]
            for _ in range(NUM_TOKENS):
                batch = pack_tokens([probe], [[[*row, 0] for row in rows]], pad_token_id=0)
                hidden = self.policy._hidden_states(batch)[:, -1]  # pyright: ignore[reportPrivateUsage]
                chances = self.policy.thinker.lm_head(hidden).float().softmax(-1)
                drawn = torch.multinomial(chances, 1, generator=generator)[:, 0].tolist()
                rows = [[*row, token] for row, token in zip(rows, drawn, strict=True)]
            answers.append(rows)
        return answers


def rounds_elsewhere(policy: Qwen2_5OmniPolicy) -> Qwen2_5OmniPolicy:
    """Sums every product of matrices in two halves, as another kernel would."""

    def in_halves(module: torch.nn.Linear, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        x, weight = args[0], module.weight
        half = x.shape[-1] // 2
        total = (x[..., :half] @ weight[:, :half].T).float() + (x[..., half:] @ weight[:, half:].T).float()
        return (total if module.bias is None else total + module.bias.float()).to(x.dtype)

    for module in policy.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(in_halves)
    return policy


def engine_layers(names: Iterable[str]) -> list[Layer]:
    """What the engine keeps as one layer each."""
    layers: dict[str, Layer] = {}
    for name in names:
        layers[engine_layer(name)] = (*layers.get(engine_layer(name), ()), name)
    return list(layers.values())


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layer_left_stale_is_found_and_named(tiny: str, dtype: torch.dtype) -> None:
    probes = probe_prompts(family_of(tiny), model_path=tiny, data=DataConfig())
    learner = Side(load_policy(tiny, dtype=dtype).eval(), probes, nonce=1)
    engine = Side(rounds_elsewhere(load_policy(tiny, dtype=dtype).eval()), probes, nonce=1)
    layers = engine_layers(learner.parameters)
    completions = engine.sample()
    base, answer = learner.score(completions), engine.score(completions)
    signatures: dict[Layer, Logprobs] = {}
    answers: dict[Layer, Logprobs] = {}
    for layer in layers:
        # the text, which comes second, never meets a tower
        asked = completions[:1] if layer[0].startswith(TOWER_PREFIXES) else completions
        with learner.stale(layer):
            signatures[layer] = minus([*learner.score(asked), *base[len(asked) :]], base)
        with engine.stale(layer):
            answers[layer] = minus([*engine.score(asked), *answer[len(asked) :]], base)
    healthy = Trial(differences=minus(answer, base), signatures=signatures, tolerance=1.0)
    assert healthy.culprit() is None
    untold = [layer for layer in layers if not healthy.evidence(layer).is_followed]
    assert untold == [NOT_EXERCISED]
    named = {
        layer: Trial(differences=answers[layer], signatures=signatures, tolerance=1.0).culprit() for layer in layers
    }
    assert named.pop(NOT_EXERCISED) is None
    assert [layer for layer, found in named.items() if found is None or found[0] != layer] == []
