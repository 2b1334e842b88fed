"""Logs and metrics, the same in every service."""

from __future__ import annotations

import logging
import sys

import structlog
from prometheus_client import start_http_server

from syncline import addresses
from syncline.settings import ServiceSettings


def setup(service: str, settings: ServiceSettings) -> None:
    """Structured logs to stderr, one line an event, and the Prometheus endpoint if one is configured."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
    render = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.dict_tracebacks if as_json else structlog.processors.ExceptionPrettyPrinter(),
            render,
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
