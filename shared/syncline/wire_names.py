"""What rows, reports and messages call the numbers of the wire: VERDICT_STATUS_SCORED is "scored"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from syncline.v1.rollout_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    VERDICT_STATUS_SCORED,
    VERDICT_STATUS_TIMEOUT,
    VERDICT_STATUS_UNAVAILABLE,
    VERDICT_STATUS_UNPARSABLE,
    FinishReason,
    VerdictStatus,
)

FinalVerdictName = Literal["scored", "unparsable", "timeout"]
VerdictName = FinalVerdictName | Literal["unavailable"]
FinishName = Literal["stop", "length"]

FINAL_VERDICTS: Mapping[VerdictStatus, FinalVerdictName] = {
    VERDICT_STATUS_SCORED: "scored",
    VERDICT_STATUS_UNPARSABLE: "unparsable",
    VERDICT_STATUS_TIMEOUT: "timeout",
}
"""Verdicts that a sample can be trained with, or left out; an unavailable one is asked for again until it is one of
these."""
VERDICTS: Mapping[VerdictStatus, VerdictName] = {**FINAL_VERDICTS, VERDICT_STATUS_UNAVAILABLE: "unavailable"}
FINISHES: Mapping[FinishReason, FinishName] = {FINISH_REASON_STOP: "stop", FINISH_REASON_LENGTH: "length"}

VERDICT_STATUS: Mapping[VerdictName, VerdictStatus] = {name: status for status, name in VERDICTS.items()}
FINISH_REASON: Mapping[FinishName, FinishReason] = {name: reason for reason, name in FINISHES.items()}
