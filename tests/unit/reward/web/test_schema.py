"""The HTTP service against its own OpenAPI document: what schemathesis makes of it, valid and invalid."""

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from common.config.reward import BuiltinRewardConfig, RewardConfig
from reward.builtin import BUILTIN
from reward.service import RewardService
from reward.web.app import create_app
from reward.web.gates import RequestLimits

OPTIONS = {"class_balanced": {"frequencies": {"happy": 0.9, "sad": 0.1}}}
ELSEWHERE = {"judge", "modality_gain"}
"""These ask an endpoint, or engines."""
REWARDS = tuple(
    BuiltinRewardConfig(type="builtin", name=name, options=OPTIONS.get(name, {}), on_error="skip_reward_for_group")
    for name in BUILTIN
    if name not in ELSEWHERE
)
TOKEN = "a-token-of-enough-letters"
SERVICE = RewardService(RewardConfig(rewards=REWARDS))
"""Every reward that needs no process of its own: nothing runs until it is asked."""
SCHEMA = schemathesis.openapi.from_asgi(
    "/openapi.json",
    create_app(SERVICE, token=TOKEN, media_root=None, limits=RequestLimits()),
    headers={"Authorization": f"Bearer {TOKEN}"},
)


@SCHEMA.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented_and_none_is_a_failure_of_the_service(case: schemathesis.Case) -> None:
    response = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
    assert response.status_code < 500, response.text
    assert "Traceback" not in response.text
    # what a schema cannot say may be refused: a path outside the media root, two wordings of one group
    excluded = [positive_data_acceptance, ignored_auth]
    if response.status_code == 413:
        # a refusal, too, which schemathesis does not count as one
        excluded.append(negative_data_rejection)
    case.validate_response(response, excluded_checks=excluded)


@SCHEMA.parametrize()
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_without_the_token_nothing_but_health_is_told(case: schemathesis.Case) -> None:
    response = case.call(headers={"Authorization": "Bearer another"})
    if case.operation.path in ("/healthz", "/readyz"):
        assert response.status_code in (200, 405)
    else:
        assert response.status_code == 401, case.operation.path
