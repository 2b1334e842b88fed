"""Who works for the runs: generators, what each holds, and their pods."""
