"""Low-rank adapters (Hu et al. 2021, through peft): their layers, merged weights and files.

The policy without its adapters is the reference, so that the reference needs no second model.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from common.config.learner import LoraConfig
from common.errors import ConfigError, ModelError
from common.models.tokens import TokenBatch
from learner.zero.deepspeed_facade import DeepSpeedEngine
from learner.zero.frozen import names_matching
from learner.zero.parameters import gathered, write_parameter
from learner.zero.weight_source import WeightSource

ADAPTER = "default"
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
"""peft's file names."""
PREFIX = "base_model.model."


def inject_adapters(policy: nn.Module, settings: LoraConfig, *, seed: int) -> list[str]:
    """Adds adapters to the linear layers that the targets match and that are not frozen; only adapters train then.

    `seed`, of the adapters' first values, is the same on every rank. Returns the names of the adapted layers.
    """
    import peft

    adapted = _adapted_layers(policy, settings.targets)
    config = _peft_config(settings, adapted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cast(Any, peft).inject_adapter_in_model(config, policy, ADAPTER)
    return adapted


def _adapted_layers(policy: nn.Module, targets: Sequence[str]) -> list[str]:
    linear = {name: module for name, module in _modules(policy) if isinstance(module, nn.Linear)}
    owners: dict[int, int] = {}
    for _, parameter in policy.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    matched = names_matching(targets, linear, rule="learner.lora.targets must match linear layers")
    tied = [name for name in sorted(matched) if owners[id(linear[name].weight)] > 1]
    if tied:
        raise ConfigError(
            f"learner.lora.targets must not match a tied layer, got {tied[0]!r}; leave it out, as an adapter would "
            "untie it"
        )
    adapted = [name for name in linear if name in matched and linear[name].weight.requires_grad]
    if not adapted:
        raise ConfigError(
            f"learner.lora.targets must match a layer outside learner.freeze, got {list(targets)}; freeze less"
        )
    return adapted


def _modules(policy: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(cast(Any, policy).named_modules())


def lora_layers(policy: nn.Module) -> dict[str, Any]:
    """peft's layers, by the name of the adapted layer."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in _modules(policy) if isinstance(module, LoraLayer)}


@contextmanager
def adapters_off(policy: nn.Module) -> Generator[None]:
    layers = lora_layers(policy).values()
    for layer in layers:
        # peft's own switch would also stop the adapters from training, under DeepSpeed's hooks
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


class AdapterOffReference:
    """The trained policy, without its adapters."""

    needs_every_rank = True

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine

    @contextmanager
    def ready(self) -> Generator[None]:
        with self._engine.evaluating(), adapters_off(self._engine.module):
            yield

    def __call__(self, tokens: TokenBatch, *, temperature: float) -> Tensor:
        return self._engine(tokens, temperature=temperature)[0]


class MergedLoraSource(WeightSource):
    """Weights with their adapters merged in float32, by their names without adapters.

    Noise is mixed into the weights under the adapters, which both planes' arithmetic uses.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__(policy)
        self._layers = {f"{name}.weight": layer for name, layer in lora_layers(policy).items()}
        self._parameters = {
            name.replace(".base_layer.", "."): parameter
            for name, parameter in policy.named_parameters()
            if not _is_adapter(name)
        }

    def moves(self, name: str) -> bool:
        return name in self._layers

    @contextmanager
    def whole(self, names: Sequence[str]) -> Generator[dict[str, Tensor]]:
        pairs = {name: _pair(self._layers[name]) for name in names if name in self._layers}
        needed = [self._parameters[name] for name in names] + [p for pair in pairs.values() for p in pair]
        with torch.no_grad(), gathered(needed):
            yield {name: self._merged(name, pairs.get(name)) for name in names}

    def _merged(self, name: str, pair: "tuple[nn.Parameter, nn.Parameter] | None") -> Tensor:
        weight = self._parameters[name].detach()
        if pair is None:
            return weight
        down, up = (p.detach().float() for p in pair)
        return (weight.float() + self._layers[name].scaling[ADAPTER] * (up @ down)).to(weight.dtype)


def read_adapter(policy: nn.Module) -> dict[str, Tensor]:
    """Whole copies on the CPU of all adapters, by peft's names; a collective."""
    adapters: dict[str, Tensor] = {}
    for name, parameter in _adapter_parameters(policy).items():
        with gathered([parameter]):
            adapters[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return adapters


def write_adapter(policy: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
    """Restores adapters of `read_adapter`, a collective; raises `ModelError` for other names or shapes."""
    parameters = _adapter_parameters(policy)
    if parameters.keys() != tensors.keys():
        different = min(parameters.keys() ^ tensors.keys())
        raise ModelError(f"an adapter must match the run's learner.lora.targets, got a difference in {different!r}")
    for name, parameter in parameters.items():
        try:
            write_parameter(optimizer, parameter, tensors[name])
        except RuntimeError as error:
            raise ModelError(f"an adapter must match the run's learner.lora.rank, got {name!r}: {error}") from error


def adapter_config(policy: nn.Module, settings: LoraConfig, *, base: str) -> dict[str, Any]:
    """peft's configuration as JSON values; `base` is the folder of the model under the adapters."""
    layers = sorted(lora_layers(policy))
    config = _peft_config(settings, layers, base_model_name_or_path=base, inference_mode=True)
    return json.loads(json.dumps(config.to_dict(), default=_plain))


def _peft_config(settings: LoraConfig, layers: Sequence[str], **more: Any) -> Any:
    import peft

    return cast(Any, peft).LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(layers),
        bias="none",
        **more,
    )


def _plain(value: Any) -> Any:
    return sorted(cast(set[str], value)) if isinstance(value, set) else str(value)


def write_adapter_folder(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes an adapter's folder for peft."""
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    folder.mkdir(mode=0o700, exist_ok=True)
    save_file(dict(tensors), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(dict(config), indent=1) + "\n")


def load_adapter_file(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    return load_file(folder / WEIGHTS_FILE)


def _adapter_parameters(policy: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by peft's names in a file, without the adapter's name."""
    return {
        PREFIX + name.replace(f".{ADAPTER}.", "."): parameter
        for name, parameter in policy.named_parameters()
        if _is_adapter(name)
    }


def _pair(layer: Any) -> "tuple[nn.Parameter, nn.Parameter]":
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
