"""The person's program, run in a replica as Python would have run it."""
