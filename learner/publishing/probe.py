"""The probe: engines answer it, the ranks score the answers, and both log-probabilities must agree."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.config.learner import PublishConfig
from common.errors import EngineError, PublishError
from common.protocols import WeightReceiver, WeightSenders
from common.types import Completion, Failure, Generation, ProcessedPrompt, SamplingSpec
from learner.publishing.members import Members
from learner.publishing.transfer import Transfer, all_ended
from learner.publishing.verification import Agreement, Logprobs, agreement_of, minus

PROBE_SEED = 2**61
SEEDS_PER_PROBE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """One engine's completions of each probe."""

    completions: tuple[tuple[Completion, ...], ...]

    @property
    def logprobs(self) -> Logprobs:
        """The engine's, a row per probe."""
        return [[v for c in group for v in c.rollout_logprobs] for group in self.completions]


class Probe:
    """Asks the probes, scores the answers, and compares both within a tolerance."""

    def __init__(
        self,
        *,
        senders: WeightSenders,
        transfer: Transfer,
        probes: Sequence[ProcessedPrompt],
        sampling: SamplingSpec,
        config: PublishConfig,
    ) -> None:
        self.probes = tuple(probes)
        self.tolerance = config.canary_tolerance
        self.senders, self.transfer = senders, transfer
        # of the whole vocabulary: a truncated sampler's probabilities are not the learner's
        self.sampling = SamplingSpec(temperature=sampling.temperature, max_tokens=config.probe_tokens)

    async def ask(self, members: Members, *, num_completions: int = 1) -> dict[str, Answers]:
        """All members answer at the same time; returns the answers of those that remain, by name."""

        async def ask_one(engine: WeightReceiver) -> Answers:
            answers = await all_ended(
                engine.generate(
                    probe,
                    sampling=self.sampling,
                    group_size=num_completions,
                    seed=PROBE_SEED + SEEDS_PER_PROBE * i,
                    deadline_s=self.transfer.engine_deadline_s,
                    is_probe=True,
                )
                for i, probe in enumerate(self.probes)
            )
            return Answers(completions=tuple(_completions(a, engine) for a in answers))

        return await self.transfer.each(members, "probe", ask_one)

    async def score(self, answers: Sequence[Answers], *, only_media: bool = False) -> list[Logprobs]:
        """The ranks' log-probabilities of each engine's answers; with `only_media`, texts get empty rows."""
        chosen = [i for i, p in enumerate(self.probes) if p.placeholders or not only_media]
        async with self.transfer.rank_phase("score"):
            scores = await self.senders.score(
                [self.probes[i] for i in chosen],
                [[c.token_ids for a in answers for c in a.completions[i]] for i in chosen],
            )
        logprobs: list[Logprobs] = [[[] for _ in self.probes] for _ in answers]
        for i, group in zip(chosen, scores, strict=True):
            rows = iter(group)
            for answer, row in zip(answers, logprobs, strict=True):
                row[i] = [v for _ in answer.completions[i] for v in next(rows)]
        return logprobs

    async def agreements(self, members: Members, *, num_completions: int = 1) -> dict[str, Agreement]:
        """The agreement of each member that answers, by name, from one call of the ranks."""
        answers = await self.ask(members, num_completions=num_completions)
        scores = await self.score(list(answers.values())) if answers else []
        return {
            name: agreement_of(minus(answer.logprobs, score))
            for (name, answer), score in zip(answers.items(), scores, strict=True)
        }

    def disagreement(
        self,
        agreement: Agreement,
        engine: WeightReceiver,
        *,
        proof: str,
        version: int,
        subject: str,
        tolerance: float | None = None,
    ) -> PublishError:
        tolerance = self.tolerance if tolerance is None else tolerance
        by_probe = ", ".join(
            f"{'+'.join(sorted(p.placeholders)) or 'text'} {d:.2e}"
            for p, d in zip(self.probes, agreement.by_probe, strict=True)
        )
        return PublishError(
            f"{proof} on {engine.name} at version {version}: log-probabilities must agree within "
            f"{tolerance:.2e}, got {by_probe}; the engine does not follow {subject}",
            proof=proof,
            engine=engine.name,
            subject=subject,
        )


def _completions(answer: Generation | Failure, engine: WeightReceiver) -> tuple[Completion, ...]:
    if isinstance(answer, Generation):
        return answer.completions
    if answer.reason == "deadline":
        raise EngineError(answer.detail)
    raise PublishError(
        f"publish: the probe on {engine.name} failed: {answer.detail}",
        proof="probe",
        engine=engine.name,
        subject=answer.reason,
    )
