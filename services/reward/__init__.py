"""The reward service: stateless, routes each sample to the reward of its task."""
