"""Prometheus metrics of a generator."""

from __future__ import annotations

from prometheus_client import Counter

GROUPS = Counter("syncline_rollout_groups", "Groups by what became of them", ["outcome"])
TOKENS = Counter("syncline_generated_tokens", "Completion tokens handed over")
