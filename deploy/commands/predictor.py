"""Answers to single clips without Ray or an engine: the training's own pre-processing, transformers' generate."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from common.config.data import DataConfig
from common.errors import ConfigError, last_line
from common.labels import TAXONOMIES, answered, normalised, readable_answer
from common.models.registry import family_of
from common.models.tokens import pack_tokens
from common.prompts.preparation import MediaSettings, prepare
from common.types import Failure, Modality, ProcessedPrompt, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    text: str
    """The whole completion."""
    think: str | None
    """Between the first `<think>` and its end; None without."""
    answer: str
    """Text of the first `<answer>`; the whole text without one."""
    normalised: str | None
    """The class that the answer names; None for none or several."""
    probabilities: Mapping[str, float] | None
    """Probability by class, summing to 1; None for a taxonomy without classes."""
    modalities: tuple[Modality, ...]
    """Modalities of the prompt."""
    num_tokens: int
    """Tokens of the completion."""
    is_cut_off: bool
    """True if the token limit ended the completion."""


class Predictor:
    """A policy that answers one clip at a time."""

    def __init__(
        self,
        model_path: str,
        *,
        data: DataConfig,
        taxonomy: str,
        max_tokens: int,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        """Loads a checkpoint.

        Args:
            data: the limits on a clip.
            taxonomy: a key of `TAXONOMIES`, for normalised answers and probabilities.

        Raises:
            ModelError: the folder is missing, incomplete or of an unknown architecture.
            ConfigError: the device does not exist.
        """
        self._family = family_of(model_path)
        self._settings = MediaSettings(data=data, model_path=model_path)
        self._taxonomy, self._max_tokens, self._device = taxonomy, max_tokens, device
        self._end = self._family.encode_completion("", model_path=model_path)[-1]
        policy = self._family.load_policy(model_path, dtype=getattr(torch, dtype))
        self._policy: Any = policy.to(_require_device(device)).eval()

    def __call__(self, record: Record) -> Answer | Failure:
        size, prompt = prepare(record, self._settings)
        if isinstance(size, Failure) or prompt is None:
            assert isinstance(size, Failure)
            return size
        path = self._settings.model_path
        tokens = self._family.generate(self._policy, prompt, model_path=path, max_tokens=self._max_tokens)
        text = self._family.decode_completion(tokens, model_path=path)
        answer_text = answered(text)
        classes = TAXONOMIES[self._taxonomy]
        return Answer(
            text=text,
            think=_between(text, "<think>", "</think>"),
            answer=answer_text,
            normalised=normalised(readable, self._taxonomy) if (readable := readable_answer(text)) else None,
            probabilities=None if classes is None else self.probabilities(prompt, text, classes),
            modalities=tuple(sorted(prompt.placeholders, key=("video", "audio").index)),
            num_tokens=len(tokens),
            is_cut_off=tokens[-1] != self._end,
        )

    def probabilities(self, prompt: ProcessedPrompt, text: str, classes: Sequence[str]) -> dict[str, float]:
        """Probability of each class as the answer, after the thinking.

        The policy scores `<answer>CLASS</answer>` and the end token after the prompt and its own text up to its
        answer; the sums of log-probabilities are normalised over the classes. Without an answer, classes follow its
        closed thinking or the prompt.
        """
        path = self._settings.model_path
        encode = self._family.encode_completion
        before = encode(thought_of(text), model_path=path)[:-1]
        behind = dataclasses.replace(prompt, prompt_token_ids=(*prompt.prompt_token_ids, *before))
        answers = [encode(f"<answer>{name}</answer>", model_path=path) for name in classes]
        batch = pack_tokens([behind], [answers], pad_token_id=0, device=self._device)
        with torch.inference_mode():
            logprobs, _ = self._policy(batch)
        sums = (logprobs * batch.mask).double().sum(dim=1)
        shares = cast(list[float], torch.softmax(sums, dim=0).tolist())
        return dict(zip(classes, shares, strict=True))


def thought_of(text: str) -> str:
    """The text before the first `<answer>`; without one, up to the end of the thinking; else an empty text."""
    before, marker, _ = text.partition("<answer>")
    if marker:
        return before
    before, marker, _ = text.partition("</think>")
    return f"{before}{marker}\n" if marker else ""


def _require_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device must be there, got {name!r}: {last_line(error)}; take cpu") from error
    return device


def _between(text: str, start: str, end: str) -> str | None:
    _, marker, rest = text.partition(start)
    inside, closed, _ = rest.partition(end)
    return inside.strip() if marker and closed else None
