"""What the reward service counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

VERDICTS = Counter("syncline_reward_verdicts", "Verdicts given", ["reward", "status"])
CHECK_SECONDS = Histogram(
    "syncline_reward_check_seconds",
    "Seconds of one check or request that was not answered from memory",
    ["reward"],
    buckets=(
        0.0005,
        0.001,
        0.002,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        1.0,
        2.0,
        5.0,
        10.0,
        30.0,
        60.0,
        120.0,
        300.0,
    ),
)
JUDGMENTS = Counter("syncline_reward_judgments", "Judgments and reward model scores by outcome", ["reward", "outcome"])
"""Judge: read, missing, malformed, out_of_range, refusal, truncated, too_long, unavailable. Reward model: scored,
too_long, refusal, not_finite, unavailable."""
RETRIES = Counter(
    "syncline_reward_retries", "Requests to a judge or a reward model that failed and may be retried", ["reward"]
)
WORKERS = Gauge("syncline_reward_workers_alive", "Verifier worker processes that are alive")
GROUPS = Counter("syncline_reward_groups", "Rollout groups by what became of them", ["result"])
"""moved, handed_back (its reward is not given here), lost (another consumer had taken it over), closed (its run wants
no more), retried, dead."""
