"""Adapters move arrays in and out of frameworks. Importing one, such as ``distopt.adapters.jax``, is the opt-in."""
