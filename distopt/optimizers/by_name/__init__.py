"""Optimizers of both families by name, as plain dictionaries, and back."""
