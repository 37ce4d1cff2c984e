"""The step: ``engine.step`` shows it from top to bottom."""
