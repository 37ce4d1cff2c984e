"""Flat and shared memory."""
