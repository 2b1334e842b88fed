"""The inference service: one engine, one policy version, prompt tasks in and rollouts out."""
