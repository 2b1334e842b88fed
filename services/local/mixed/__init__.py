"""The mixed run: verified addition and digit walks that a reward model likes, in the same batches."""
