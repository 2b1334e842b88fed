"""What generators are asked for: prompts of steps and evaluations, or what a file says in their place."""
