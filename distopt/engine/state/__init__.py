"""The state that a step reads and writes, each part with one owner."""
