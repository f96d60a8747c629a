"""All SQL of our own, and the records that go through it."""
