"""Asks the judges and reward models that a run spec names whether they are there.

One that is down is no reason to refuse a run, as it may be up when its first sample comes; but who submits it should
know. Nothing is sent but a GET of the list of models, and no key: the reward service alone holds keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from syncline.addresses import is_loopback
from syncline.errors import FieldProblem
from syncline.rewardspec import EndpointSpec
from syncline.runspec import RunSpec

_DEADLINE_S = 5.0


async def unreachable(spec: RunSpec) -> list[FieldProblem]:
    """What is wrong with the endpoints of a spec at this moment; all are asked at the same time."""
    named = list(_endpoints(spec))
    if not named:
        return []
    distinct = {(reward.endpoint, reward.model): reward for _, reward in named}
    async with httpx.AsyncClient() as far, httpx.AsyncClient(trust_env=False) as near:
        # A proxy, if the environment names one, has no way to this machine's loopback.
        asked = await asyncio.gather(*(_ask(reward, near if _is_near(reward) else far) for reward in distinct.values()))
    trouble = dict(zip(distinct, asked, strict=True))
    problems = [(path, reward, trouble[reward.endpoint, reward.model]) for path, reward in named]
    return [_problem(path, reward, *found) for path, reward, found in problems if found is not None]


def _endpoints(spec: RunSpec) -> Iterator[tuple[str, EndpointSpec]]:
    trained = spec.tasks if spec.rollouts.source is None else ()  # rollouts from a file bring their rewards
    named = [
        *((f"tasks.{index}.reward", task.reward) for index, task in enumerate(trained)),
        *((f"evaluation.{index}.reward", evaluation.reward) for index, evaluation in enumerate(spec.evaluation)),
    ]
    for path, reward in named:
        if isinstance(reward, EndpointSpec):
            yield path, reward


def _is_near(reward: EndpointSpec) -> bool:
    return is_loopback(urlsplit(reward.endpoint).hostname or "")


async def _ask(reward: EndpointSpec, http: httpx.AsyncClient) -> tuple[str, str] | None:
    """(field, what is wrong), or None. An answer of any other kind is an answer: not every server lists its models."""
    url = f"{reward.endpoint.rstrip('/')}/models"
    try:
        async with asyncio.timeout(_DEADLINE_S):
            response = await http.get(url, timeout=None)
    except TimeoutError:
        return "endpoint", f"GET {url} was not answered within {_DEADLINE_S:g} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return "endpoint", f"GET {url} failed: {error or type(error).__name__}"
    if response.is_server_error and response.status_code != httpx.codes.NOT_IMPLEMENTED:
        return "endpoint", f"GET {url} answered {response.status_code} {response.reason_phrase}"
    models = _models(response)
    if models and reward.model not in models:
        return "model", f"{reward.endpoint} serves {', '.join(models[:5])}, and no {reward.model!r}"
    return None


def _models(response: httpx.Response) -> list[str]:
    """Names in an OpenAI list of models; none where the answer is something else."""
    try:
        return [str(model["id"]) for model in response.json()["data"]] if response.is_success else []
    except (ValueError, KeyError, TypeError):
        return []


def _problem(path: str, reward: EndpointSpec, field: str, problem: str) -> FieldProblem:
    allowed = "an OpenAI-compatible server that is up" if field == "endpoint" else "a model that the endpoint serves"
    return FieldProblem(f"{path}.{field}", problem, f"{allowed}; samples wait for it, and none is scored 0 meanwhile")
