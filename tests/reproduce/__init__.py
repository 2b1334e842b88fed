"""The paper's main comparison on a task that a CPU can do: how often the generators need the learner's weights."""
