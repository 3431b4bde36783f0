"""Rehearses engines that start later, without the ranks.

Such an engine starts from the checkpoint that the ranks held at the recorded rehearsal. It mixes the same noise
into its own weights, whose digests must be the recorded ones, and answers the probe with the same seeds. Its
log-probabilities are compared with the recorded ones of the ranks.
"""

import logging
from dataclasses import replace

from common.errors import PublishError
from common.protocols import WeightReceiver
from learner.publishing.members import Members
from learner.publishing.plan import PublishPlan
from learner.publishing.probe import Answers, Probe
from learner.publishing.rehearsal import NUM_COMPLETIONS
from learner.publishing.rehearsal_record import RecordedTrial, RehearsalRecord
from learner.publishing.transfer import Identity
from learner.publishing.verification import check_receipt, name_layers

logger = logging.getLogger(__name__)


class LoneRehearsal:
    """Verifies engines by the record of an earlier rehearsal."""

    def __init__(self, probe: Probe, *, plan: PublishPlan, record: RehearsalRecord) -> None:
        self._probe, self._transfer, self._plan, self._record = probe, probe.transfer, plan, record
        self._num_labels = 0

    async def run(self, members: Members, *, current: Identity) -> list[WeightReceiver]:
        """Rejects the members that do not follow the record, and leaves noise in the others.

        Returns the engines that the record cannot judge, because they started from other weights.
        """
        others: list[WeightReceiver] = []
        for recorded in self._record.trials:
            others += await self._load_noise(members, recorded, current=current)
            await self._transfer.resume(members)
            answers = await self._probe.ask(members, num_completions=NUM_COMPLETIONS)
            for engine in list(members.engines):
                self._check(recorded, answers[engine.name], engine, members, version=current.version)
        return others

    async def _load_noise(
        self, members: Members, recorded: RecordedTrial, *, current: Identity
    ) -> list[WeightReceiver]:
        self._num_labels += 1
        label = f"{current.weights_id}-alone-{self._num_labels}"
        tower_id = label if self._plan.changes_towers else current.tower_id
        noisy = replace(current, weights_id=label, tower_id=tower_id)
        receipts = await self._transfer.perturb(members, noisy, scale=recorded.scale, nonce=recorded.nonce)
        others: list[WeightReceiver] = []
        for engine in list(members.engines):
            try:
                check_receipt(self._plan.names, recorded.manifest, receipts[engine.name], engine=engine.name)
            except PublishError as error:
                logger.warning("engine %s needs the ranks for its rehearsal: %s", engine.name, error)
                members.dismiss(engine)
                others.append(engine)
        return others

    def _check(
        self, recorded: RecordedTrial, answers: Answers, engine: WeightReceiver, members: Members, *, version: int
    ) -> None:
        trial = recorded.trial_of(answers)
        if trial is None:
            error = PublishError(
                f"rehearsal on {engine.name} at version {version}: it must sample at least half of the recorded "
                "tokens of each probe, got fewer; the engine does not follow its weights",
                proof="rehearsal",
                engine=engine.name,
                subject="tokens",
            )
        elif trial.is_passed:
            return
        else:
            layer = trial.explanation()
            layers = [layer] if layer else trial.suspects(self._plan, self._probe.probes)
            error = self._probe.disagreement(
                trial.agreement,
                engine,
                proof="rehearsal",
                version=version,
                subject=name_layers(layers),
                tolerance=trial.tolerance,
            )
        members.reject(engine, error)
