"""Logs and metrics, the same in every service.

A traceback in the log has no values of local variables: among them are API keys, prompts and completions.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import structlog
from prometheus_client import start_http_server
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer

from syncline import addresses
from syncline.settings import ServiceSettings

_secrets: set[str] = set()


def conceal(secret: str) -> None:
    """Never write this text to the log: an error of some library may quote it in its message."""
    if secret:
        _secrets.update({secret, json.dumps(secret)[1:-1]})


def setup(service: str, settings: ServiceSettings) -> None:
    """Structured logs to stderr, one line an event, and the Prometheus endpoint if one is configured."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
    render = structlog.processors.JSONRenderer() if as_json else _for_people()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.StackInfoRenderer(),
            *([ExceptionRenderer(ExceptionDictTransformer(show_locals=False))] if as_json else []),
            render,
            _without_secrets,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    if settings.metrics_bind:
        host, port = addresses.listening(settings.metrics_bind)
        start_http_server(port, addr=host or "127.0.0.1")


def _for_people() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _without_secrets(logger: Any, method: str, event: Any) -> str:
    """The finished line: nothing that is logged goes past here."""
    line = str(event)
    for secret in _secrets:
        line = line.replace(secret, "***")
    return line
