"""Requests made from the schema that the server publishes, valid and invalid: none ends in a 500.

The session fuzz of nox has schemathesis.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from serving import Running, loader, serving

from mlx_gpt.serve.settings import ServeAnswers

schemathesis = pytest.importorskip("schemathesis", reason="the session fuzz of nox has it")
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance,
          response_schema_conformance)  # fmt: skip


@pytest.fixture(scope="module")
def server(llama_folder: str) -> Iterator[Running]:
    limits = ServeAnswers(max_tokens=8, max_choices=2)
    with serving(loader(llama_folder), answers=limits) as running:
        yield running


ROUTES = [("/health", "GET"), ("/ready", "GET"), ("/metrics", "GET"), ("/v1/models", "GET"),
          ("/v1/models/{name}", "GET"), ("/v1/chat/completions", "POST"),
          ("/v1/completions", "POST")]  # fmt: skip


@pytest.fixture(scope="module")
def schema(server: Running):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(*each, "POSITIVE") for each in ROUTES]
    + [(*each, "NEGATIVE") for each in ROUTES if each[1] == "POST"],
)
def test_no_request_of_the_schema_ends_in_a_server_error(server, schema, path, method, mode):
    operation = schema[path][method]
    many = 60 if method == "POST" else 10

    @settings(max_examples=many, deadline=None, derandomize=True, database=None,
              suppress_health_check=[*HealthCheck])  # fmt: skip
    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def check(case) -> None:
        answer = case.call(base_url=server.url)
        statuses.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    statuses: list[int] = []
    check()
    # What is valid may still ask for more than the limits, or for a model that is not here.
    assert "{" in path or (200 if mode == "POSITIVE" else 400) in statuses, statuses
    assert server.is_good()


def test_the_schema_has_all_routes(server):
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {*paths} == {path for path, _ in ROUTES}
