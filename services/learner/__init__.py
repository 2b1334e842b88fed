"""The learner: consumes scored groups, updates the policy, publishes checkpoints."""
