"""Checks of answers in processes that may be killed at any moment."""
