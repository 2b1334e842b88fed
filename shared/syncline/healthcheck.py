"""Asks a service on this machine how it is: `python -m syncline.healthcheck liveness|readiness`; exit code 0 is yes.

For a container's health check where the platform cannot ask over gRPC or HTTP itself: Docker, and Kubernetes before
1.24. The coordinator is asked at SYNCLINE_REST_BIND, every other service at SYNCLINE_BIND.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping
from typing import Any

_TIMEOUT_S = 4.0
_QUESTIONS = {"liveness": "/healthz", "readiness": "/readyz"}


def problem(question: str, environment: Mapping[str, str]) -> str:
    """What is wrong, in a line; empty when the answer is yes."""
    if rest := environment.get("SYNCLINE_REST_BIND"):
        return _ask_rest(_reachable(rest), _QUESTIONS[question])
    return _ask_grpc(_reachable(environment.get("SYNCLINE_BIND", "")), "liveness" if question == "liveness" else "")


def _reachable(bound: str) -> str:
    """A service that listens on every interface is asked on the loopback."""
    host, _, port = bound.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]", "") else bound  # noqa: S104 - compared, not bound


def _ask_rest(address: str, path: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
    except OSError as error:
        return f"http://{address}{path} does not answer: {error}"
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else f"http://{address}{path} answers {answer.status}"


def _ask_grpc(address: str, service: str) -> str:
    import grpc  # here, so that a check of the coordinator does not load it
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            reply = stub.Check(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{address} does not answer: {error.code().name}"
    status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return "" if status == "SERVING" else f"{address} answers {status}"


def main() -> int:
    if sys.argv[1:] not in [[question] for question in _QUESTIONS]:
        print(f"usage: python -m syncline.healthcheck {'|'.join(_QUESTIONS)}", file=sys.stderr)
        return 2
    if wrong := problem(sys.argv[1], os.environ):
        print(wrong, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
