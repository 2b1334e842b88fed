"""The coordinator: REST API, the run's state machine, the schedule and the fleet. No torch, no vLLM."""
