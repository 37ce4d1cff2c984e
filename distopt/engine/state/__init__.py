"""What a step reads and writes between steps, each with one owner."""
