"""The zero-shot evaluator; the only layer that runs models."""
