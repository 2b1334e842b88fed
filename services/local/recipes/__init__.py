"""The paper's settings for a real model, as run specs, and what makes their prompt files."""
