"""The base of the legacy family."""
