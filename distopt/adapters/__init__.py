"""Adapters to other frameworks. None is loaded before it is imported by name, as in ``import distopt.adapters.jax``."""
