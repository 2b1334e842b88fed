"""What every component has: the same values for all of them, with the same effect."""

from __future__ import annotations

from tests.kubernetes.chart import DEFAULT, EVERYTHING, environment, find, render


def test_a_deployment_is_given_the_time_of_its_start_before_it_counts_as_failed() -> None:
    deployments = [one for one in render(EVERYTHING) if one["kind"] == "Deployment"]
    assert len(deployments) == 4
    for one in deployments:
        (container,) = one["spec"]["template"]["spec"]["containers"]
        probe = container["startupProbe"]
        start = probe["failureThreshold"] * probe["periodSeconds"]
        drain = one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] - 20
        assert one["spec"]["progressDeadlineSeconds"] >= start + drain + 300, one["metadata"]["name"]


def test_a_variable_that_is_replaced_stays_before_those_that_refer_to_it() -> None:
    own = {"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "vault", "key": "redis"}}}
    values = {"inference": {"env": [{"name": "MORE", "value": "1"}, own]}}
    (container,) = find(render(DEFAULT, values=values), "StatefulSet", "rl-syncline-inference")["spec"]["template"][
        "spec"
    ]["containers"]
    names = list(environment(container))
    assert "$(REDIS_PASSWORD)" in environment(container)["SYNCLINE_REDIS_URL"]
    assert names.index("REDIS_PASSWORD") < names.index("SYNCLINE_REDIS_URL")
    assert own in container["env"]
    assert len(container["env"]) == len(names)
    assert names[-1] == "MORE"


def test_long_names_are_cut_to_different_ones() -> None:
    long = "a-team-with-a-very-long-name-and-release"

    def names(release: str) -> set[str]:
        manifests = render(DEFAULT, values={"nameOverride": f"{long}-{release}"})
        return {one["metadata"]["name"] for one in manifests}

    one, other = names("one"), names("other")
    assert not one & other
    assert all(len(name) <= 40 + len("-default-deny") for name in one | other)
    assert names("one") == one
