"""gRPC for the learner: decodes, calls, encodes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from services.learner.learner import Learner
from syncline.rpc import Context
from syncline.v1 import learner_service_pb2 as pb
from syncline.v1 import learner_service_pb2_grpc as pb_grpc


class LearnerServicer(pb_grpc.LearnerServiceServicer):
    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    async def Train(self, request: pb.TrainRequest, context: Context) -> AsyncIterator[pb.TrainResponse]:
        attempt = await self._learner.start(request)
        # However the stream ends, the attempt ends with it; a `finally` here runs late when the client goes away
        # between two events.
        context.add_done_callback(lambda _: attempt.stop())  # type: ignore[arg-type]  # the stub asks for a named class
        async for event in attempt.events():
            yield event

    async def Stop(self, request: pb.StopRequest, context: Context) -> pb.StopResponse:
        return pb.StopResponse(stopped=self._learner.stop(request.run_id, reason=request.reason))

    async def Update(self, request: pb.UpdateRequest, context: Context) -> pb.UpdateResponse:
        step = self._learner.update(request.run_id, spec_json=request.spec_json, paused=request.paused)
        return pb.UpdateResponse(step=step)

    async def GetStatus(
        self, request: pb.LearnerServiceGetStatusRequest, context: Context
    ) -> pb.LearnerServiceGetStatusResponse:
        return self._learner.status()
