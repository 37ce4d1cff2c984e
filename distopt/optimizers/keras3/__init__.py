"""The base of the Keras 3 family."""
