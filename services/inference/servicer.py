"""InferenceService over gRPC: decode, call, encode."""

from __future__ import annotations

import asyncio

from services.inference.generator import Generator, Held
from services.inference.worker import Worker, generate
from syncline.rpc import Context
from syncline.v1 import inference_service_pb2 as pb
from syncline.v1.inference_service_pb2_grpc import InferenceServiceServicer


class InferenceServicer(InferenceServiceServicer):
    """One generator's face to the coordinator."""

    def __init__(self, generator: Generator, worker: Worker, *, member_id: str) -> None:
        self._generator = generator
        self._worker = worker
        self._member_id = member_id

    async def LoadCheckpoint(self, request: pb.LoadCheckpointRequest, context: Context) -> pb.LoadCheckpointResponse:
        # A caller that gives up must not leave the engine between two versions: the load goes on without it.
        times = await asyncio.shield(self._generator.load(request.handle))
        return pb.LoadCheckpointResponse(
            stage_seconds=times.stage_seconds,
            drain_seconds=times.drain_seconds,
            swap_seconds=times.swap_seconds,
            probe_error=times.probe_error,
        )

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        held = self._generator.held or Held("", 0, "")
        return pb.GenerateResponse(group=await generate(self._generator, held, request.task, member_id=self._member_id))

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        return pb.DrainResponse(handed_back=await self._worker.drain())

    async def GetStatus(
        self, request: pb.InferenceServiceGetStatusRequest, context: Context
    ) -> pb.InferenceServiceGetStatusResponse:
        generator, held = self._generator, self._generator.held
        return pb.InferenceServiceGetStatusResponse(
            id=self._member_id,
            engine=generator.engine.name,
            run_id=held.run_id if held else "",
            version=held.version if held else 0,
            manifest_digest=held.manifest_digest if held else "",
            running=generator.running,
            groups_total=generator.groups_total,
            tokens_total=generator.tokens_total,
            phase=generator.phase,
            error=generator.error,
        )
