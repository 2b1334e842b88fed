"""Whether a run can start: its spec against files, stores, models and rewards."""
