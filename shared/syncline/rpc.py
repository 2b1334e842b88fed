"""gRPC as every service uses it: deadlines on every call, one mapping of errors, health, reflection.

A peer is always named in what goes wrong: "inference-3f2a at unix:/... did not answer LoadCheckpoint in 60 s".
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import astuple
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from syncline.errors import FieldProblem, InvalidSpec, PeerTimeout, SynclineError, Unavailable, all_errors

log = structlog.get_logger()
Stub = TypeVar("Stub")
Reply = TypeVar("Reply", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

_CODE_KEY = "syncline-code"
_PROBLEMS_KEY = "syncline-problems"
_DETAILS_CHARS = 2048
"""Of the message of an error, and of the problems beside it: what a call ends with is limited to 8 KiB."""
_BY_CODE = {error.code: error for error in all_errors()}
_MAX_MESSAGE_BYTES = 64 << 20
# Both sides keep the same numbers: a client that pings more often than the server allows is sent away.
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.enable_http_proxy", 0),
]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers a SynclineError with its own status and code; anything else as INTERNAL without its insides."""

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _guarded(handler.unary_unary, details.method), handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _guarded_stream(handler.unary_stream, details.method),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return handler


def _guarded(behaviour: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure becomes a status
            await _abort(context, error, method)

    return call


def _guarded_stream(behaviour: Callable[..., AsyncIterator[Any]], method: str) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in behaviour(request, context):
                yield message
        except Exception as error:  # noqa: BLE001 - the boundary: every failure becomes a status
            await _abort(context, error, method)

    return call


async def _abort(context: Context, error: Exception, method: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, SynclineError):
        log.info("rpc_refused", method=method, code=error.code, error=error.message)
        status, code, message = getattr(grpc.StatusCode, error.grpc_status), error.code, error.message
    else:
        log.error("rpc_failed", method=method, exc_info=error)
        status, code, message = grpc.StatusCode.INTERNAL, "internal", f"{type(error).__name__} in {method}; see its log"
    metadata = [(_CODE_KEY, code)]
    if isinstance(error, InvalidSpec):
        metadata.append((_PROBLEMS_KEY, _packed(error)))
    await context.abort(status, message[:_DETAILS_CHARS], trailing_metadata=tuple(metadata))


def _packed(error: InvalidSpec) -> str:
    """The problems as ASCII, and no more of them than the metadata of a call may hold."""
    problems: list[tuple[str, ...]] = []
    room = _DETAILS_CHARS
    for problem in error.problems:
        room -= len(json.dumps(astuple(problem)))
        if room < 0:
            break
        problems.append(astuple(problem))
    return json.dumps(problems)


class Server:
    """A gRPC server with health and reflection. `address` is known once it has started."""

    def __init__(self, bind: str, *, advertise: str = "") -> None:
        self._bind = bind
        self._advertise = advertise
        # Without so_reuseport=0 a second server on a taken port starts and gets some of the first one's calls.
        options = [*_OPTIONS, ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=options)
        self._health = health.aio.HealthServicer()
        self._names = [reflection.SERVICE_NAME, health.SERVICE_NAME]
        self.address = ""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def add(self, register: Callable[[Any, grpc.aio.Server], None], servicer: Any, *, name: str) -> None:
        """Serve a generated service: `add(add_RewardServiceServicer_to_server, servicer, name=full_name)`."""
        register(servicer, self._server)
        self._names.append(name)

    async def start(self) -> None:
        """Listen. Raises Unavailable when the address is taken."""
        reflection.enable_server_reflection(self._names, self._server)
        try:
            port = self._server.add_insecure_port(self._bind)
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {self._bind}; choose another SYNCLINE_BIND") from error
        bound = self._bind if self._bind.startswith("unix:") else f"{self._bind.rpartition(':')[0]}:{port}"
        self.address = self._advertise or bound
        await self.set_ready(False)
        await self._server.start()
        log.info("listening", address=self.address)

    async def set_ready(self, ready: bool) -> None:
        """What grpc.health.v1 answers: "" and every service name follow readiness, "liveness" is always serving."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)
        await self._health.set("liveness", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


class Client:
    """A channel to one peer; every call has a deadline and names the peer when it fails."""

    def __init__(self, address: str, *, peer: str) -> None:
        self.address = address
        self.peer = peer
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)

    def stub(self, make: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        return make(self._channel)

    async def call(self, method: Callable[..., Awaitable[Reply]], request: Message, *, timeout_s: float) -> Reply:
        """One unary call. Raises the SynclineError that the peer raised, PeerTimeout, or Unavailable."""
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, timeout_s) from None

    async def stream(self, method: Callable[..., AsyncIterator[Reply]], request: Message) -> AsyncGenerator[Reply]:
        """A server stream; a peer that dies is noticed by keepalive within half a minute."""
        try:
            async for reply in method(request):
                yield reply
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, None) from None

    async def close(self) -> None:
        await self._channel.close()

    def _translated(self, error: grpc.aio.AioRpcError, timeout_s: float | None) -> SynclineError:
        trailing: dict[str, Any] = dict(error.trailing_metadata() or ())
        code = trailing.get(_CODE_KEY)
        where = f"{self.peer} at {self.address}"
        if code == InvalidSpec.code and _PROBLEMS_KEY in trailing:
            problems = [FieldProblem(*problem) for problem in json.loads(trailing[_PROBLEMS_KEY])]
            return InvalidSpec(problems or [FieldProblem("request", str(error.details()), "see the peer's log")])
        if isinstance(code, str) and code in _BY_CODE and code != InvalidSpec.code:
            return _BY_CODE[code](f"{where}: {error.details()}")
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and timeout_s is not None:
            return PeerTimeout(f"{where} did not answer in {timeout_s:g} s")
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return Unavailable(f"{where} does not answer ({error.details()})")
        return SynclineError(f"{where}: {error.code().name}: {error.details()}")
