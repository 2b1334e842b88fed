"""What drives a run: its turn, its attempts, and what must happen in time meanwhile."""
