"""Every Redis key that Syncline uses, in one place.

Work streams (consumer group in brackets):
    syncline:prompts:{run}:{version}   prompt tasks for one version          [inference]
    syncline:rollouts                  rollout groups of all runs            [reward]
    syncline:scored:{run}              scored training groups                [learner]
    syncline:evaluated:{run}           scored evaluation groups              [coordinator]
    syncline:dead:{run}                entries given up, with their cause    [none]

Others:
    syncline:open                      set of runs whose work is wanted; a hand-over of any other run is dropped
    syncline:admitted:{run}            steps admitted so far; another number, or none, tells that Redis lost data
    syncline:member:{role}:{id}        registration of a live process, expires with its lease
    syncline:wanted                    run and version that every generator should hold; absent while none is wanted
"""

from __future__ import annotations

PREFIX = "syncline"
OPEN_RUNS = f"{PREFIX}:open"
ROLLOUTS = f"{PREFIX}:rollouts"
WANTED = f"{PREFIX}:wanted"

INFERENCE_GROUP = "inference"
REWARD_GROUP = "reward"
LEARNER_GROUP = "learner"
COORDINATOR_GROUP = "coordinator"


def prompts(run_id: str, version: int | str) -> str:
    return f"{PREFIX}:prompts:{run_id}:{version}"


def scored(run_id: str) -> str:
    return f"{PREFIX}:scored:{run_id}"


def evaluated(run_id: str) -> str:
    return f"{PREFIX}:evaluated:{run_id}"


def dead(run_id: str) -> str:
    return f"{PREFIX}:dead:{run_id}"


def admitted(run_id: str) -> str:
    return f"{PREFIX}:admitted:{run_id}"


def member(role: str, member_id: str) -> str:
    return f"{PREFIX}:member:{role}:{member_id}"


def members_pattern(role: str) -> str:
    return f"{PREFIX}:member:{role}:*"
