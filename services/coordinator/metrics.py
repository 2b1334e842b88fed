"""Prometheus metrics of the coordinator. No ids in labels; base units."""

from __future__ import annotations

import math
from collections import Counter as Counts
from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from services.coordinator.cluster.fleet import Load
from services.coordinator.cluster.pods import Pod
from syncline.redis_client import Memory

STEPS = Counter("syncline_steps", "Optimizer updates made")
TOKENS = Counter("syncline_tokens", "Completion tokens trained on or looked at", ["kind"])
PAIRS = Counter("syncline_pairs", "Preference pairs kept")
DROPPED_GROUPS = Counter("syncline_dropped_groups", "Groups that did not train", ["cause"])
POLICY_VERSION = Gauge("syncline_policy_version", "Version that generators are told to serve")
STALENESS = Histogram(
    "syncline_policy_staleness_steps", "Step minus version of its rollouts", buckets=(0, 1, 2, 5, 10, 20, 50, 100, 200)
)
REWARD = Gauge("syncline_reward_mean", "Mean reward of the last step", ["task"])
STEP_METRIC = Gauge(
    "syncline_step_metric", "Scalars of the last step, by task and over all tasks (task is empty)", ["task", "name"]
)
STEP_SECONDS = Histogram("syncline_train_step_seconds", "Seconds of a step by phase", ["phase"])
WEIGHT_SYNC_SECONDS = Histogram("syncline_weight_sync_seconds", "Seconds of a checkpoint load by phase", ["phase"])
PROBE_ERROR = Gauge("syncline_probe_error", "Largest log-probability difference at the last load")
EVALUATION_SCORE = Gauge(
    "syncline_evaluation_score", "Mean score of the last evaluation, and its 95 % interval", ["name", "statistic"]
)
EVALUATION_PASS_AT = Gauge("syncline_evaluation_pass_at", "pass@k of the last evaluation", ["name", "k"])
EVALUATION_WIN_RATE = Gauge(
    "syncline_evaluation_win_rate_length_controlled",
    "Share of comparisons won against the seed at equal length, and its 95 % interval",
    ["name", "statistic"],
)
EVALUATION_NORMALIZED = Gauge(
    "syncline_evaluation_length_normalized", "Mean score as if answers were as long as the seed's", ["name"]
)
EVALUATION_LENGTH = Gauge("syncline_evaluation_length_tokens", "Mean length of the last evaluation", ["name"])
MEMBERS = Gauge("syncline_members", "Live processes", ["role"])
RUNS = Gauge("syncline_runs", "Runs by state", ["state"])
PODS_NOT_READY = Gauge("syncline_pods_not_ready", "Pods of the release that do not work", ["component"])
REDIS_MEMORY = Gauge("syncline_redis_memory_bytes", "Redis' memory: used, and limit, which is 0 for none", ["kind"])
BACKLOG = Gauge("syncline_backlog_prompts", "Prompts that wait for generators or are with one")


def observe_step(row: dict[str, Any]) -> None:
    STEPS.inc()
    TOKENS.labels("completion").inc(row["tokens"])
    PAIRS.inc(row["pairs"])
    STALENESS.observe(row["staleness"])
    STEP_SECONDS.labels("wait").observe(row["wait_seconds"])
    STEP_SECONDS.labels("update").observe(row["update_seconds"])
    for cause, count in row["dropped"].items():
        DROPPED_GROUPS.labels(cause).inc(count)
    STEP_METRIC.clear()  # of an earlier run, with other tasks or another algorithm
    REWARD.clear()
    for name, value in row["metrics"].items():
        STEP_METRIC.labels("", name).set(math.nan if value is None else value)
    for task in row["tasks"]:
        for name, value in task["metrics"].items():
            STEP_METRIC.labels(task["task"], name).set(math.nan if value is None else value)
        if task["reward_mean"] is not None:
            REWARD.labels(task["task"]).set(task["reward_mean"])


def observe_pods(pods: Iterable[Pod]) -> None:
    counts = Counts(pod.component for pod in pods if not pod.ready and not pod.deleting and pod.phase != "Succeeded")
    PODS_NOT_READY.clear()
    for component, count in counts.items():
        PODS_NOT_READY.labels(component).set(count)


def observe_redis(memory: Memory) -> None:
    REDIS_MEMORY.labels("used").set(memory.used_bytes)
    REDIS_MEMORY.labels("limit").set(memory.limit_bytes)


def observe_load(load: Load) -> None:
    WEIGHT_SYNC_SECONDS.labels("stage").observe(load.response.stage_seconds)
    WEIGHT_SYNC_SECONDS.labels("drain").observe(load.response.drain_seconds)
    WEIGHT_SYNC_SECONDS.labels("swap").observe(load.response.swap_seconds)
    PROBE_ERROR.set(load.response.probe_error)


def observe_evaluation(row: dict[str, Any]) -> None:
    for gauge, field in ((EVALUATION_SCORE, "score"), (EVALUATION_WIN_RATE, "win_rate_length_controlled")):
        for statistic, value in (row[field] or {}).items():
            if value is not None:
                gauge.labels(row["name"], statistic).set(value)
    for k, value in row["pass_at"].items():
        EVALUATION_PASS_AT.labels(row["name"], k).set(value)
    for gauge, field in ((EVALUATION_LENGTH, "length_mean"), (EVALUATION_NORMALIZED, "length_normalized")):
        if row[field] is not None:
            gauge.labels(row["name"]).set(row[field])
