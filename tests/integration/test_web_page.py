"""The web page in a real browser, over a real coordinator and a real stack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.coordinator.records.reports import step_row
from services.coordinator.work.rollout_file import Origin
from syncline.algo.schedule import Change, Schedule
from syncline.errors import FieldProblem
from syncline.state import RunEvent
from syncline.v1.learner_service_pb2 import StepReport, TaskReport
from tests.e2e.local_stack import QUICKSTART, LocalStack, small_spec
from tests.integration.chromium import Chromium
from tests.integration.coordinator_thread import Coordinator
from tests.integration.evaluated import HELD_OUT, evaluate
from tests.integration.published import publish


def test_the_docs_are_drawn_from_our_own_files_and_ask_for_no_token(
    browser: Chromium, coordinate: Callable[..., Coordinator]
) -> None:
    coordinator = coordinate(token="secret")
    browser.open(f"{coordinator.url}/docs")
    browser.until_text("POST /v1/runs")
    assert browser.ask("document.querySelectorAll('main h3').length") > 50
    assert "Updates between two syncs of the generators" in browser.text()
    assert all(url.startswith(coordinator.url) for url in browser.requested)
    assert browser.complaints == []


def button(text: str) -> str:
    """The button with this text, as a JavaScript expression."""
    return f"[...document.querySelectorAll('button')].find((one) => one.innerText === '{text}')"


def test_without_runs_the_page_says_how_to_start_one(browser: Chromium, coordinate: Callable[..., Coordinator]) -> None:
    url = coordinate().url
    browser.open(url)
    browser.until_text("No runs yet")
    shown = browser.text()
    assert f"syncline run spec.yaml --server {url}" in shown
    assert f"curl {url}/v1/runs" in shown
    assert "there is no generator and no reward service and no learner alive" in shown


def test_a_token_is_asked_for_once_and_kept_in_the_tab(
    browser: Chromium, coordinate: Callable[..., Coordinator]
) -> None:
    coordinator = coordinate(token="secret")
    run = coordinator.run()
    browser.open(coordinator.url)
    browser.until("document.getElementById('token-dialog').open")
    # when the token is wrong
    browser.type("wrong")
    browser.press("Enter")
    browser.until("!document.getElementById('token-refused').hidden")
    # when it is right
    browser.type("secret")
    browser.press("Enter")
    browser.until_text(run.id)
    # then neither a reload nor the event stream asks again
    refused = [complaint for complaint in browser.complaints if "401" in complaint]
    assert refused == browser.complaints, "the browser notes each 401 by itself, and nothing else"
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until_text("live")
    assert not browser.ask("document.getElementById('token-dialog').open")
    assert browser.ask("Object.keys(localStorage).length + document.cookie.length") == 0
    browser.ask("sessionStorage.clear()")


def test_runs_are_listed_newest_first_with_what_is_wrong(
    browser: Chromium, coordinate: Callable[..., Coordinator]
) -> None:
    coordinator = coordinate()
    old = coordinator.run(RunEvent.START, RunEvent.FAIL, reason="the disk is full")
    new = coordinator.run()
    browser.open(coordinator.url)
    browser.until_text("the disk is full")
    assert browser.ask("[...document.querySelectorAll('tbody th')].map((cell) => cell.innerText)") == [new.id, old.id]
    # and one more appears by itself
    newest = coordinator.run()
    browser.until_text(newest.id)


def test_a_stalled_run_says_why_while_one_looks_at_it(
    browser: Chromium, coordinate: Callable[..., Coordinator]
) -> None:
    coordinator = coordinate()
    run = coordinator.run(RunEvent.START, RunEvent.TRAIN)
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until_text("live")
    coordinator.do(lambda: run.apply(RunEvent.STALL, "no reward for 12 s: the judge is down"))
    stalled = "stalled no reward for 12 s: the judge is down"
    browser.until(f"document.querySelector('.doing').innerText === '{stalled}'", within_s=5)


def test_without_the_event_stream_the_page_asks_again_and_again(
    browser: Chromium, coordinate: Callable[..., Coordinator]
) -> None:
    coordinator = coordinate()
    run = coordinator.run(RunEvent.START, RunEvent.TRAIN)
    with browser.blocking("*/events"):
        browser.open(f"{coordinator.url}/#/runs/{run.id}")
        browser.until_text("asking every 2 s")
        coordinator.do(lambda: run.apply(RunEvent.FAIL, "step 3 diverged"))
        browser.until_text("step 3 diverged", within_s=10)
    browser.complaints.clear()  # the browser notes each request that was blocked


def test_a_failed_run_that_is_resumed_is_followed_again(
    browser: Chromium, coordinate: Callable[..., Coordinator], project: Path
) -> None:
    coordinator = coordinate()
    run = coordinator.run(RunEvent.START, RunEvent.FAIL, reason="the disk is full", generation={"max_tokens": 5})
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until("document.getElementById('link').innerText === 'run is over'")
    browser.ask(f"{button('Resume')}.click()")
    browser.until("document.getElementById('link').innerText === 'live'")
    assert run.state == "pending"


def test_a_run_from_a_file_says_so_and_has_no_sync_period_to_change(
    browser: Chromium, coordinate: Callable[..., Coordinator]
) -> None:
    coordinator = coordinate()
    live, offline = coordinator.run(RunEvent.START, RunEvent.TRAIN), coordinator.run(RunEvent.START, RunEvent.TRAIN)
    offline.record.rollouts = Origin(path="/data/rollouts.jsonl", sha256="0" * 64, groups={"add": 900, "chat": 100})
    for run, says, knob in ((live, "generated live", True), (offline, "1,000 groups of /data/rollouts.jsonl", False)):
        browser.open(f"{coordinator.url}/#/runs/{run.id}")
        browser.until_text(says)
        assert browser.ask(f"{button('Change')} !== undefined && {button('Change')}.checkVisibility()") == knob


def test_cancelling_asks_first(browser: Chromium, coordinate: Callable[..., Coordinator]) -> None:
    coordinator = coordinate()
    run = coordinator.run()
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until_text("Cancel run")
    cancel = button("Cancel run")
    # when the question is answered at once: the safe answer has the focus
    browser.ask(f"{cancel}.click()")
    browser.press("Enter")
    browser.until("!document.getElementById('confirm-dialog').open")
    assert run.state == "pending"
    # when it is confirmed
    browser.ask(f"{cancel}.click()")
    browser.press("Tab")
    browser.press("Enter")
    browser.until_text("cancelled on request")
    assert run.state == "cancelled"
    browser.until("document.getElementById('link').innerText === 'run is over'")


def test_the_sync_period_can_be_changed_on_the_page(browser: Chromium, coordinate: Callable[..., Coordinator]) -> None:
    coordinator = coordinate()
    run = coordinator.run()
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until("document.getElementById('period')?.value === '4'")
    for period, says in (("never", "never (offline)"), ("2", "every 2 steps")):
        browser.ask("document.getElementById('period').select()")
        browser.ask("document.getElementById('period').focus()")
        browser.type(period)
        browser.press("Enter")
        browser.until_text(says)
    assert [change.period for change in run.spec.sync.changes] == [2]
    # and what the coordinator refuses is told
    browser.ask("document.getElementById('period').removeAttribute('pattern')")
    browser.ask("document.getElementById('period').select()")
    browser.type("0")
    browser.press("Enter")
    browser.until_text("Not changed: ")
    browser.complaints.clear()  # the browser notes the refusal


def test_what_a_model_wrote_stays_text(browser: Chromium, coordinate: Callable[..., Coordinator]) -> None:
    coordinator = coordinate()
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title = 'owned'</script>"
    run = coordinator.run(RunEvent.START, RunEvent.TRAIN, reason=hostile)
    shared = {"step": 0, "version": 0, "prompt_index": 3, "task": "add", "prompt": hostile, "answer": hostile}
    sides = [
        shared | {"completion": hostile, "reward": 1.0, "verdict": "scored", "role": "chosen", "generator": hostile},
        shared | {"completion": "", "reward": 0.0, "verdict": "timeout", "role": "rejected", "generator": "b"},
    ]
    coordinator.do(lambda: run.append("samples", *sides))
    coordinator.do(lambda: run.emit("message", {"text": hostile}))
    coordinator.do(lambda: run.emit(hostile, {"text": hostile}))
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until("document.querySelectorAll('.side').length === 2")
    browser.until_text("(empty)")
    sides_text = browser.ask("[...document.querySelectorAll('.side')].map((side) => side.innerText)")
    assert hostile in sides_text[0]
    assert "timeout" in sides_text[1]
    assert browser.ask("document.querySelectorAll('main img, main script').length") == 0
    assert "owned" not in browser.ask("document.title")


def test_a_mixed_run_has_its_curves_by_task_and_a_gap_where_nothing_was_scored(
    browser: Chromium, coordinate: Callable[..., Coordinator]
) -> None:
    coordinator = coordinate()
    run = coordinator.run(RunEvent.START, RunEvent.TRAIN)

    def row(step: int) -> dict[str, Any]:
        sizes = {"groups": 2, "samples": 8, "tokens": 40 + step, "length_mean": 5.0, "pairs": 2}
        math = TaskReport(task="math", rewarded=8, reward_mean=0.5, **sizes)
        chat = TaskReport(task="chat", rewarded=8 * (step != 3), reward_mean=None if step == 3 else 7.0, **sizes)
        numbers = {"loss": 0.5, "mismatch_kl": 0.25 + step}
        return step_row(StepReport(step=step, version=step, tasks=[math, chat], metrics=numbers), sync_period=1)

    coordinator.do(lambda: run.append("steps", *[row(step) for step in range(6)]))
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until_text("5.250 nats (version 5)")
    pieces = "[...document.querySelectorAll('#reward path')].map((one) => one.getAttribute('d').split('M').length - 1)"
    browser.until(f"JSON.stringify({pieces}) === '[1,1,2]'")
    select = "document.querySelector('select[aria-label=\"What the fourth figure shows\"]')"
    shown = {"mismatch_kl": ("all tasks",), "reward of chat": ("chat",)}  # of another size than that of math
    for choice in ("pairs", "tokens", "completion length", *shown):
        browser.ask(f"{select}.value = '{choice}'")
        browser.ask(f"{select}.dispatchEvent(new Event('change'))")
        label = browser.ask("document.getElementById('chosen').getAttribute('aria-label')")
        lines = shown.get(choice, ("all tasks", "math", "chat"))
        assert all(f"{name} from" in label for name in lines), label
    assert "math from" not in label, "each on an axis of its own"


def test_evaluations_are_shown_with_intervals_the_best_one_and_what_was_answered(
    browser: Chromium, coordinate: Callable[..., Coordinator], tmp_path: Path
) -> None:
    coordinator = coordinate()
    run = coordinator.run(RunEvent.START, RunEvent.TRAIN, evaluation=[HELD_OUT])
    problem = FieldProblem("evaluation.0.reward.endpoint", "it does not answer", "one that is up")
    coordinator.do(lambda: run.warn([problem]))
    hostile = "<img src=x onerror=\"document.title='owned'\">"
    for version, score in ((0, 0.25), (2, 0.75), (4, 0.5)):
        publish(run.folder, QUICKSTART / "seed-model", version=version, run_id=run.id, probe=[0.0] * 9)
        coordinator.wait_for(evaluate(run, version, score, completion=hostile))
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until_text("evaluation.0.reward.endpoint: it does not answer")
    browser.until_text("2 (0.750 on heldout)")
    assert browser.ask("document.querySelectorAll('#scores path.interval').length") == 1
    assert "heldout from 0.250 at version 0 to 0.500 at 4" in browser.ask(
        "document.getElementById('scores').getAttribute('aria-label')"
    )
    # the table marks the best one
    browser.ask("document.getElementById('evaluations').open = true")
    browser.until("document.querySelectorAll('#evaluations tbody tr').length === 3")
    rows = browser.ask("[...document.querySelectorAll('#evaluations tbody tr')].map((row) => row.innerText)")
    assert [("best" in row) for row in rows] == [False, True, False], "newest first: 4, 2, 0"
    assert "accuracy" in rows[1]
    assert "0.750 [0.750, 0.750]" in rows[1]
    # and the answers of each version can be read, as text
    browser.ask("document.getElementById('answers').open = true")
    browser.until("document.querySelectorAll('#answers .side').length === 3")
    assert hostile in browser.ask("document.querySelector('#answers .side').innerText")
    browser.ask("document.getElementById('answers-which').value = 'heldout/2'")
    browser.ask("document.getElementById('answers-which').dispatchEvent(new Event('change'))")
    browser.until_text("0.750 [0.750, 0.750] over 3 prompts")
    assert browser.ask("document.querySelectorAll('main img').length") == 0


def test_what_is_not_there_and_who_does_not_answer_is_told(
    browser: Chromium, coordinate: Callable[..., Coordinator]
) -> None:
    coordinator = coordinate()
    browser.open(f"{coordinator.url}/#/runs/nothing")
    browser.until_text("There is no such run")
    browser.open(f"{coordinator.url}/#/")
    browser.until_text("No runs yet")
    coordinator.stop_serving()
    browser.until_text("The coordinator does not answer. Trying again.")
    browser.complaints.clear()  # the browser notes the 404 and each failed request


def test_a_coordinator_that_is_being_looked_at_stops_quietly(
    browser: Chromium, coordinate: Callable[..., Coordinator], caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = coordinate()
    run = coordinator.run(RunEvent.START)
    browser.open(f"{coordinator.url}/#/runs/{run.id}")
    browser.until_text("live")
    coordinator.stop_serving()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    browser.until_text("The coordinator does not answer. Trying again.")
    browser.complaints.clear()  # the browser notes each failed request


@pytest.mark.parametrize(
    ("period", "lag", "changes"),
    [
        (1, 0, []),
        (4, 0, []),
        (4, 1, []),
        ("never", 0, []),
        ("never", 1, [(7, 3)]),
        (4, 0, [(5, 1), (9, "never"), (13, 2)]),
        (3, 1, [(0, 5), (6, 2), (6, 4), (30, 1)]),
    ],
)
def test_the_page_plans_as_the_coordinator_does(
    browser: Chromium, coordinate: Callable[..., Coordinator], period: Any, lag: int, changes: list[tuple[int, Any]]
) -> None:
    url = coordinate().url
    browser.open(url)
    browser.until_text("No runs yet")
    schedule = Schedule(period=period, lag=lag, steps=25, changes=tuple(Change(*change) for change in changes))
    sync = {"period": period, "lag": lag, "changes": [{"step": step, "period": later} for step, later in changes]}
    asked = f"import('./ui/schedule.js').then((it) => it.windowsOf({sync}, 25))"
    windows = browser.ask(asked)
    planned = [window["version"] for window in windows for _ in range(window["start"], window["stop"])]
    assert planned == [schedule.version_for_step(step) for step in range(25)]


@pytest.mark.timeout(400)
def test_a_real_run_is_followed_from_start_to_end(browser: Chromium, tmp_path: Path) -> None:
    held_out = {"name": "heldout", "data": str(QUICKSTART / "heldout.jsonl"), "temperature": 0.0, "every": 10}
    with LocalStack(tmp_path, project=Path.cwd()) as stack:
        origin = str(stack.api.base_url).rstrip("/")
        run_id = stack.submit(small_spec(steps=20, evaluation=[held_out]))
        browser.open(origin)
        browser.until_text(run_id)
        browser.ask(f"[...document.links].find((link) => link.innerText === '{run_id}').click()")
        browser.until("document.getElementById('link').innerText === 'live'")
        stack.finish(run_id)
        browser.until("document.querySelector('.doing')?.innerText.startsWith('succeeded')")
        browser.until("document.getElementById('link').innerText === 'run is over'")

        # then the page shows what the API answers
        rows = stack.steps(run_id)
        assert "step 20 / 20" in browser.text()
        for figure in ("timeline", "reward", "scores", "loss", "chosen"):
            drawn = f"[...document.querySelectorAll('#{figure} path')].some((path) => path.getTotalLength() > 100)"
            assert browser.ask(drawn), figure
            assert browser.ask(f"document.getElementById('{figure}').getAttribute('aria-label')")
        assert browser.ask("document.querySelectorAll('#timeline circle.sync').length") == len(
            {row["version"] for row in rows} - {0}
        )
        assert _event_kinds(browser) >= {"state", "message", "sync", "checkpoint", "fleet", "evaluation"}
        assert browser.ask("document.querySelectorAll('.side.chosen').length") >= 1
        assert "inference-0" in browser.text()

        # the keyboard reads a value
        browser.ask("document.getElementById('reward').focus()")
        browser.press("Home")
        reading = browser.ask("document.querySelector('output[for=reward]').innerText")
        assert reading.startswith(f"step 0  {rows[0]['reward_mean']:.3f}")

        # so does the pointer
        browser.ask("document.getElementById('loss').scrollIntoView({block: 'center'})")
        box = browser.ask("document.getElementById('loss').getBoundingClientRect().toJSON()")
        browser.hover(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        browser.until("/^step (9|10|11)  /.test(document.querySelector('output[for=loss]').innerText)")

        # and the table has every step
        browser.ask("document.getElementById('steps').open = true")
        browser.until("document.querySelectorAll('#steps tbody tr').length === 20")
        assert {url for url in browser.requested if not url.startswith(origin)} == set(), "no other host"


def _event_kinds(browser: Chromium) -> set[str]:
    cells = "section[aria-labelledby=events-title] tbody tr td:nth-child(2)"
    browser.ask("[...document.querySelectorAll('button')].find((one) => /^Show all/.test(one.innerText))?.click()")
    return set(browser.ask(f"[...document.querySelectorAll('{cells}')].map((cell) => cell.innerText)"))
