"""A real small model on real problems: SmolLM2-135M-Instruct on GSM8K, on a CPU."""
