"""A publisher over ranks and engines of a few numbers."""

import pytest

from common.config.learner import PublishConfig
from common.errors import PublishError
from common.types import ProcessedPrompt, SamplingSpec
from learner.publishing.plan import PublishPlan
from learner.publishing.publisher import Publisher, PublishReport
from tests.support.builders import text_prompt
from tests.support.clock import run
from tests.support.fakes import SEGMENTS, FakeEngine, FakeFleet, FakeSenders, Shared, plan_of

LAYERS = [[f"layer-{i}.{part}" for part in ("weight", "bias")] for i in range(5)]
TOWERS = [[f"tower-{i}.{part}" for part in ("weight", "bias")] for i in range(2)]
BOTH = [*TOWERS, *LAYERS]
CLIP = ProcessedPrompt(prompt_token_ids=(1, 2), tensors={}, placeholders={"video": (0, 1)}, clip_hash="clip")
PROBES = (CLIP, text_prompt([3]))


class Bench:
    """A publisher and everything it talks to."""

    def __init__(
        self,
        *,
        plan: PublishPlan | None = None,
        num_engines: int = 1,
        dtype: str = "float32",
        rehearsal: bool = True,
        canary_noise_factor: float = 3.0,
    ) -> None:
        self.shared = Shared(plan=plan or plan_of(BOTH))
        self.senders = FakeSenders(self.shared)
        self.checkpoint = dict(self.senders.weights)
        self.engines = [self.new_engine(i) for i in range(num_engines)]
        self.publisher = self.another(dtype=dtype, rehearsal=rehearsal, canary_noise_factor=canary_noise_factor)

    def another(
        self,
        *,
        dtype: str = "float32",
        rehearsal: bool = True,
        canary_noise_factor: float = 3.0,
        version: int = 0,
    ) -> Publisher:
        """A publisher over the same engines, in a fleet of its own that has verified them."""
        self.fleet = FakeFleet(self.engines, version=version, are_verified=True)
        return Publisher(
            senders=self.senders,
            fleet=self.fleet,
            plan=self.shared.plan,
            segments=SEGMENTS,
            probes=PROBES,
            sampling=SamplingSpec(temperature=0.9, top_p=0.5, top_k=3, max_tokens=64),
            config=PublishConfig(deadline_s=60.0, rehearsal=rehearsal, canary_noise_factor=canary_noise_factor),
            answer_deadline_s=30.0,
            dtype=dtype,
            version=version,
        )

    @property
    def engine(self) -> FakeEngine:
        """The first."""
        return self.engines[0]

    def new_engine(self, index: int) -> FakeEngine:
        """With the checkpoint that the ranks started from."""
        engine = FakeEngine(self.shared, self.senders, name=f"engine-{index}")
        engine.weights, engine.checkpoint = dict(self.checkpoint), dict(self.checkpoint)
        return engine

    def admit(self) -> None:
        """As the loop does."""
        run(self.publisher.rehearse_alone())
        run(self.publisher.admit())

    def publish(self) -> PublishReport:
        """One step of the optimizer, and its publish."""
        self.senders.step()
        return run(self.publisher.publish())

    def phases(self, who: str) -> list[str]:
        """What one of them did, in order."""
        return [" ".join(entry[1:]).strip() for entry in self.shared.log if entry[0] == who]


def complaint(bench: Bench, work: str = "publish") -> PublishError:
    """What starting or publishing raises."""
    with pytest.raises(PublishError) as caught:
        run(bench.publisher.start()) if work == "start" else bench.publish()
    return caught.value
