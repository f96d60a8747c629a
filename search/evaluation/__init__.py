"""The zero-shot evaluator; the only room that runs models."""
