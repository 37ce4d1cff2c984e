"""TCP connections between processes that know a common secret."""
