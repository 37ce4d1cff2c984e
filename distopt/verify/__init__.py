"""Compares the first step on one replica and on several, for ``distopt verify``."""
