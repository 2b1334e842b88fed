"""What a pod's object tells people: whether it works and, if not, why, in Kubernetes' own words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from syncline.membership import Role

_COMPONENT = "app.kubernetes.io/component"
_ON_THE_WAY = frozenset({"", "ContainerCreating", "PodInitializing", "ContainersNotReady", "Terminating", "Completed"})


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `reason` is empty while it is ready."""

    name: str
    uid: str
    component: str
    """Label app.kubernetes.io/component: inference, reward, learner, coordinator, redis ..."""
    phase: str
    ready: bool
    deleting: bool
    """Told to stop; it drains, and its work is its own until it is gone."""
    reason: str
    """One word of Kubernetes: Unschedulable, ImagePullBackOff, CrashLoopBackOff, OOMKilled, Evicted ..."""
    message: str
    """Its sentence, where Kubernetes has one."""
    restarts: int
    last_exit: str
    """How a container ended before the present one, such as "OOMKilled (exit code 137)"; empty for none."""
    node: str

    @property
    def role(self) -> Role | None:
        """What its process is in the fleet; None for those that do not register: Redis, judges, the coordinator."""
        roles: tuple[Role, ...] = ("inference", "reward", "learner")
        return next((known for known in roles if known == self.component), None)

    @property
    def registers(self) -> bool:
        """Whether its process should be a member of the fleet: of a learner's pods, the first one's is, with rank 0."""
        return self.role is not None and (self.role != "learner" or self.name.endswith("-0"))

    @property
    def ended(self) -> bool:
        """It will not run again: done, or evicted. Deployments make another one beside it, and leave it lying."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def trouble(self) -> str:
        """A sentence if the pod does not come up by itself in a moment; empty otherwise."""
        if self.reason in _ON_THE_WAY:
            return ""
        facts = [self.message, f"last: {self.last_exit}" if self.last_exit else ""]
        facts.append(f"{self.restarts} restarts" if self.restarts else "")
        return f"{self.name} is {self.phase}, {self.reason}" + "".join(f"; {fact}" for fact in facts if fact)


@dataclass(slots=True)
class Picture:
    """The pods of the release as they were seen last, by name. A pod's process is the member of that id."""

    pods: dict[str, Pod] = field(default_factory=dict)
    trouble: str = ""
    """Why the picture may be old; empty while it is followed."""
    shortage: str = ""
    """Why there are fewer generators' pods than are wanted: not even Pending ones."""

    @property
    def current(self) -> list[Pod]:
        """The pods that count. One that has ended does so only while its component has no other, that tells more."""
        alive = {pod.component for pod in self.pods.values() if not pod.ended}
        return [pod for pod in self.pods.values() if not pod.ended or pod.component not in alive]


def observe(pod: Mapping[str, Any]) -> Pod:
    """A pod from its object, as the API server sends it."""
    metadata, status = pod["metadata"], pod.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    deleting = "deletionTimestamp" in metadata
    ready = conditions.get("Ready", {}).get("status") == "True" and not deleting
    reason, message = ("", "") if ready else _why(status, conditions, containers)
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        component=metadata.get("labels", {}).get(_COMPONENT, ""),
        phase=status.get("phase", "Pending"),
        ready=ready,
        deleting=deleting,
        reason="Terminating" if deleting else reason,
        message="" if deleting else message,
        restarts=sum(container.get("restartCount", 0) for container in containers),
        last_exit=next((_exit(container["lastState"]) for container in containers if container.get("lastState")), ""),
        node=pod.get("spec", {}).get("nodeName", ""),
    )


def describe(pod: Pod, *, registered: bool | None) -> dict[str, Any]:
    """A pod as the REST API shows it; `registered`: whether it is alive in the fleet; None if it need not be."""
    return asdict(pod) | {"registered": registered, "trouble": pod.trouble}


def _why(
    status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]], containers: list[Mapping[str, Any]]
) -> tuple[str, str]:
    """The word and the sentence of what keeps a pod from being ready: what is nearest to the cause first."""
    if status.get("reason"):  # the whole pod: Evicted, NodeLost, UnexpectedAdmissionError
        return status["reason"], status.get("message", "")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return scheduled.get("reason", "Unschedulable"), scheduled.get("message", "")
    for state in _states(containers):
        if ended := state.get("terminated"):
            return ended.get("reason") or "Error", ended.get("message") or f"exit code {ended.get('exitCode')}"
        if waiting := state.get("waiting"):
            return waiting.get("reason", ""), waiting.get("message", "")
    ready = conditions.get("Ready", {})
    return ready.get("reason", ""), ready.get("message", "")


def _states(containers: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for container in containers:
        state = container.get("state", {})
        if state.get("terminated", {}).get("exitCode") != 0:  # an init container that is done is no reason
            yield state


def _exit(state: Mapping[str, Any]) -> str:
    ended = state.get("terminated", {})
    return f"{ended.get('reason', 'Error')} (exit code {ended.get('exitCode')})" if ended else ""
