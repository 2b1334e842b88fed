"""The coordinator: REST API, the run's state machine, the schedule and the fleet. No torch, no vLLM.

From the top: `api` and `ui` face people, `control` drives runs, `submission` checks them, `records` keeps them,
`cluster` knows the generators, and `work` is what they are asked for.
"""
