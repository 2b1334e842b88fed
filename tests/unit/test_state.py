"""The run's state machine, exhaustively."""

from __future__ import annotations

import itertools

import pytest

from syncline.errors import Conflict
from syncline.state import TRANSITIONS, RunEvent, RunState, transition


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RunState, RunEvent)))
def test_every_pair_has_a_successor_or_a_conflict_that_names_the_state(state: RunState, event: RunEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert transition(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(Conflict, match=state.value):
            transition(state, event)


def test_only_a_resume_leaves_a_terminal_state_and_success_is_final() -> None:
    leaving = {(state, event) for state, event in TRANSITIONS if state.terminal}
    assert leaving == {(RunState.FAILED, RunEvent.RESUME), (RunState.CANCELLED, RunEvent.RESUME)}


def test_every_state_but_the_first_can_be_reached() -> None:
    assert set(TRANSITIONS.values()) | {RunState.PENDING} == set(RunState)


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.STALLED, RunState.PAUSED])
def test_a_run_succeeds_however_its_last_step_was_made(state: RunState) -> None:
    assert transition(state, RunEvent.SUCCEED) is RunState.SUCCEEDED


@pytest.mark.parametrize("state", [state for state in RunState if not state.terminal])
def test_every_live_run_can_be_cancelled(state: RunState) -> None:
    assert transition(state, RunEvent.CANCEL) is RunState.CANCELLED
