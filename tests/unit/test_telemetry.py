"""What the log of a service holds of an error, and what it does not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from syncline import telemetry
from syncline.settings import ServiceSettings

KEY = 'sk-"quoted"-0123456789'


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = handlers, level


def log_an_error(log_format: str) -> None:
    telemetry.setup("reward", ServiceSettings(log_format=log_format, metrics_bind=""))
    telemetry.conceal(KEY)
    headers = {"Authorization": f"Bearer {KEY}"}
    completion = "the whole text of a completion"
    try:
        assert headers
        raise ValueError(f"Illegal header value {headers['Authorization']}") if completion else None
    except ValueError as error:
        structlog.get_logger().error("group_failed", exc_info=error)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_in_the_log_names_the_place_and_holds_no_values(
    log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    log_an_error(log_format)
    captured = capfd.readouterr()
    assert captured.out == "", "standard output is for results"
    assert "Illegal header value Bearer ***" in captured.err
    assert "test_telemetry.py" in captured.err
    # The line of the code that raised may be shown, so only the value proves anything.
    assert "Authorization': 'Bearer" not in captured.err
    assert "0123456789" not in captured.err
    assert "the whole text" not in captured.err


def test_a_traceback_in_json_is_still_one_line_of_json(capfd: pytest.CaptureFixture[str]) -> None:
    log_an_error("json")
    [line] = capfd.readouterr().err.splitlines()
    [error] = json.loads(line)["exception"]
    assert (error["exc_type"], error["exc_value"]) == ("ValueError", "Illegal header value Bearer ***")
    assert "locals" not in error["frames"][-1]
