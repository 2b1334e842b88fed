"""Everything of an LLM judge that needs no network: its prompts, who is compared with whom, what its reply says."""
