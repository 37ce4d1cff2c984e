"""The common base of both optimizer families."""
