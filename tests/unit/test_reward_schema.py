"""The HTTP service against its own OpenAPI document: what schemathesis makes of it, valid and invalid."""

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from common.config.reward import RewardConfig
from reward.app import Limits, create_app
from reward.service import RewardService

SERVICE = RewardService(RewardConfig())
"""The paper's two rewards: nothing runs until it is asked, and they need no process of their own."""
SCHEMA = schemathesis.openapi.from_asgi(
    "/openapi.json", create_app(SERVICE, token=None, media_root=None, limits=Limits())
)


@SCHEMA.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented_and_none_is_a_failure_of_the_service(case: schemathesis.Case) -> None:
    response = case.call()
    assert response.status_code < 500, response.text
    assert "Traceback" not in response.text
    # what a schema cannot say may be refused: a path outside the media root, two wordings of one group
    case.validate_response(response, excluded_checks=[positive_data_acceptance])
