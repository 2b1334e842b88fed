"""The run's state machine: one enum, one table, one function.

pending -> starting -> running <-> paused
              ^  |        |  ^
              |  v        v  |
              +- (attempt lost)  stalled
any of these -> succeeded | failed | cancelled
"""

from __future__ import annotations

from enum import StrEnum

from syncline.errors import Conflict


class RunState(StrEnum):
    """Where a run is. `stalled` means: alive, but waiting for something that the reason names."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STALLED = "stalled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class RunEvent(StrEnum):
    """What can happen to a run."""

    START = "start"
    """Its turn has come."""
    TRAIN = "train"
    """The learner has the model and works on steps."""
    LOSE_ATTEMPT = "lose_attempt"
    """The learner went away; another attempt goes on from the saved state."""
    STALL = "stall"
    RECOVER = "recover"
    PAUSE = "pause"
    RESUME = "resume"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


_ASKED = (RunEvent.PAUSE, RunEvent.RESUME, RunEvent.CANCEL)
"""What people may ask of a run."""
_ACTIVE = (RunState.STARTING, RunState.RUNNING, RunState.PAUSED, RunState.STALLED)

TRANSITIONS: dict[tuple[RunState, RunEvent], RunState] = {
    (RunState.PENDING, RunEvent.START): RunState.STARTING,
    (RunState.STARTING, RunEvent.TRAIN): RunState.RUNNING,
    (RunState.STALLED, RunEvent.TRAIN): RunState.RUNNING,
    (RunState.STARTING, RunEvent.STALL): RunState.STALLED,
    (RunState.RUNNING, RunEvent.STALL): RunState.STALLED,
    (RunState.STALLED, RunEvent.RECOVER): RunState.RUNNING,
    (RunState.RUNNING, RunEvent.PAUSE): RunState.PAUSED,
    (RunState.STALLED, RunEvent.PAUSE): RunState.PAUSED,
    (RunState.PAUSED, RunEvent.RESUME): RunState.RUNNING,
    (RunState.RUNNING, RunEvent.SUCCEED): RunState.SUCCEEDED,
    (RunState.STALLED, RunEvent.SUCCEED): RunState.SUCCEEDED,
    (RunState.PAUSED, RunEvent.SUCCEED): RunState.SUCCEEDED,  # paused during the last update: there is nothing to hold
    (RunState.PENDING, RunEvent.CANCEL): RunState.CANCELLED,
    (RunState.PENDING, RunEvent.FAIL): RunState.FAILED,
    (RunState.FAILED, RunEvent.RESUME): RunState.PENDING,
    (RunState.CANCELLED, RunEvent.RESUME): RunState.PENDING,
    **{(state, RunEvent.LOSE_ATTEMPT): RunState.STARTING for state in _ACTIVE},
    **{(state, RunEvent.FAIL): RunState.FAILED for state in _ACTIVE},
    **{(state, RunEvent.CANCEL): RunState.CANCELLED for state in _ACTIVE},
}


def transition(state: RunState, event: RunEvent) -> RunState:
    """The state after `event`. Raises Conflict, with what can be done in `state`, where the event has no place."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        possible = " or ".join(asked for asked in _ASKED if (state, asked) in TRANSITIONS)
        now = f"; what can be done now: {possible}" if possible else "; it is over"
        raise Conflict(f"cannot {event.value} a run that is {state.value}{now}") from None
