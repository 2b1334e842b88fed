"""The quickstart: a tiny model that adds two-digit numbers badly, its data, and the run spec that teaches it."""
