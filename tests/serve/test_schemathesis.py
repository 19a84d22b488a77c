"""Requests that the server's OpenAPI allows, and some that it does not: no answer of 5xx, and none it does not tell."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from fewstep.serve import Limits
from fewstep.serve.http.app import build_app
from fewstep.serve.settings import Settings
from support.serving import Remote, running_server, tiny_family

FEW = Limits(steps=4, images=3, prompt_characters=500)
CHECKS = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
DEADLINE = 504  # of a request that says in how many milliseconds it is to be done


def described(*phases: str) -> Any:
    schema = schemathesis.openapi.from_dict(build_app(None).openapi())
    schema.config.phases.update(phases=list(phases))
    return schema


usual, thorough = described("fuzzing"), described("examples", "coverage", "fuzzing")
quiet = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with running_server(tiny_family(batch_invariant=True), Settings(limits=FEW)) as remote:
        yield remote


@usual.parametrize()
@settings(quiet, max_examples=4)
def test_no_request_breaks_the_server(case: Any, remote: Remote) -> None:
    check(case, remote)


@pytest.mark.long
@thorough.parametrize()
@settings(quiet, max_examples=40)
def test_no_request_of_many_breaks_the_server(case: Any, remote: Remote) -> None:
    check(case, remote)


def check(case: Any, remote: Remote) -> None:
    """Of a name and a size that nobody serves no more is read, so both are often taken from the body."""
    if isinstance(case.body, dict) and case.body.get("seed") != 0:
        for name in ("model", "size"):
            case.body.pop(name, None)
    response = case.call(base_url=remote.url, timeout=60)
    assert response.status_code < 500 or response.status_code == DEADLINE, response.content
    if response.status_code == DEADLINE:
        assert case.body["deadline_ms"] > 0
    case.validate_response(response, checks=CHECKS)
