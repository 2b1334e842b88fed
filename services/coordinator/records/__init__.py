"""Runs as they are kept: what was asked, what happened, what came out."""
