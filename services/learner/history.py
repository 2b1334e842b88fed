"""What trained, step by step, as it is kept with the training state: the record of a run outlives every listener.

Reports are lost when either side dies between an update and the client's own record of it. A step that is in the saved
state is never made again, so the state is where the next client learns what it missed.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.json_format import MessageToJson, Parse

from syncline.v1.learner_service_pb2 import StepReport


class History:
    """The reports of steps 0, 1, 2 ... without their samples, one line of JSON each."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._lines = list(lines)

    @classmethod
    def parse(cls, text: str) -> History:
        """The inverse of `text`."""
        return cls(text.splitlines())

    def add(self, report: StepReport) -> None:
        """Take in the next step."""
        kept = StepReport()
        kept.CopyFrom(report)
        del kept.samples[:]  # texts of prompts and completions would make every saved state large
        self._lines.append(MessageToJson(kept, indent=None, preserving_proto_field_name=True))

    def since(self, step: int) -> list[StepReport]:
        """The reports of `step` and later."""
        return [Parse(line, StepReport()) for line in self._lines[step:]]

    def text(self) -> str:
        """JSON lines."""
        return "".join(line + "\n" for line in self._lines)

    def __len__(self) -> int:
        return len(self._lines)
