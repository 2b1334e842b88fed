"""A whole run on a judge's scores, by a judge that is not there at first."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.e2e.local_stack import QUICKSTART, LocalStack, small_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Judge(BaseHTTPRequestHandler):
    """Likes small digits, and grades no answer that starts with 1. Two answers with a bar between are compared."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][-1]["content"]
        if "|" in asked:
            first, second = map(mean_digit, asked.split("|"))
            text = f"<winner>{'tie' if first == second else 'A' if first < second else 'B'}</winner>"
        else:
            text = "No comment." if asked.startswith("1") else f"<score>{10 - mean_digit(asked):.3f}</score>"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        reply = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments: Any) -> None:
        """Tests are quiet."""


def mean_digit(answer: str) -> float:
    digits = [int(one) for one in answer if one.isdigit()] or [9]
    return sum(digits) / len(digits)


@contextmanager
def serving(port: int) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", port), Judge)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_cancelled_run_whose_judge_is_down_leaves_nothing_that_another_run_waits_for(stack: LocalStack) -> None:
    spec = small_spec(steps=6)
    nobody = {"type": "judge", "endpoint": "http://127.0.0.1:9/v1", "model": "m", "template": "{answer}"}
    waits = stack.submit({**spec, "tasks": [spec["tasks"][0] | {"reward": nobody}]})
    stack.until(lambda: "judge at http://127.0.0.1:9" in stack.run(waits)["reason"], what="the run to wait")
    stack.api.post(f"/v1/runs/{waits}:cancel")

    following = stack.submit(spec)
    stack.finish(following, within_s=180)
    reasons = [event["data"]["reason"] for event in stack.events(following) if event["type"] == "state"]
    assert not any("judge" in reason for reason in reasons)
    stack.until(stack.streams_are_empty, what="the streams to be empty")

    def reward_phase() -> str:
        (reward,) = stack.api.get("/v1/fleet").json()["reward"]
        return str(reward["phase"])

    # it learns at its next renewal of leases that the groups it holds belong to nobody
    stack.until(lambda: reward_phase() == "idle", what="the reward service to let go of the cancelled run's groups")


def test_a_run_trains_on_comparisons_and_is_evaluated_against_its_seed(stack: LocalStack) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    judge = {"type": "judge", "endpoint": f"http://127.0.0.1:{port}/v1", "model": "m", "template": "{first}|{second}"}
    lines = (QUICKSTART / "heldout.jsonl").read_text().splitlines()[:24]
    (stack.folder / "few.jsonl").write_text("".join(f"{line}\n" for line in lines))
    spec = small_spec(steps=8)
    spec["tasks"][0]["reward"] = judge | {"mode": "pairwise"}
    few = {"name": "few", "data": str(stack.folder / "few.jsonl"), "samples": 2, "temperature": 1.0}
    spec["evaluation"] = [few | {"reward": judge | {"mode": "versus_seed"}}]
    with serving(port):
        run = stack.submit(spec)
        stack.finish(run, within_s=240)
    for step in stack.steps(run):
        # each comparison has a winner and a loser, or a tie: the mean of a group is a half, and so is that of a batch
        assert step["reward_mean"] == pytest.approx(0.5)
        assert step["tasks"][0]["verdicts"] == {"scored": 8 * 4}
    assert sum(step["pairs"] for step in stack.steps(run)) > 0
    rows = stack.api.get(f"/v1/runs/{run}/evaluations").json()["evaluations"]
    before, after = next(row for row in rows if row["version"] == 0), rows[-1]
    assert after["version"] == 8
    assert {row["measure"] for row in rows} == {"win_rate"}
    # the seed ties with itself; the trained model was compared with the seed's own answers
    assert (before["score"]["mean"], before["verdicts"]) == (0.5, {"scored": 48})
    assert after["verdicts"] == {"scored": 48}
    assert 0.0 <= after["win_rate"]["low"] <= after["win_rate"]["mean"] <= after["win_rate"]["high"] <= 1.0
    assert after["win_rate_length_controlled"] is not None


def test_a_run_waits_for_its_judge_says_so_and_then_trains_on_what_it_says(stack: LocalStack) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}/v1"
    spec = small_spec(steps=6)
    spec["tasks"][0]["reward"] = {"type": "judge", "endpoint": endpoint, "model": "m", "template": "{answer}"}

    # Given a judge that is down, the run waits, and its status names what is missing.
    run = stack.submit(spec)
    stack.until(
        lambda: f"judge at {endpoint}: no connection" in stack.run(run)["reason"],
        what="the reason to be told",
        within_s=120,
    )
    assert stack.steps(run) == []
    (reward,) = stack.api.get("/v1/fleet").json()["reward"]
    assert "no reward for" in json.dumps(reward)

    # When it comes up, the run goes on by itself.
    with serving(port):
        stack.finish(run, within_s=180)
    steps = stack.steps(run)
    assert [step["step"] for step in steps] == list(range(6))
    verdicts = [step["tasks"][0]["verdicts"] for step in steps]
    assert sum(one["scored"] for one in verdicts) > 0
    assert sum(one.get("unparsable", 0) for one in verdicts) > 0
    assert all(sum(one.values()) == 8 * 4 for one in verdicts), "no sample is lost and none is counted twice"
    # A sample without a score has no part in the mean.
    assert all(1.0 <= step["reward_mean"] <= 10.0 for step in steps)
    assert sum(step["pairs"] for step in steps) > 0
