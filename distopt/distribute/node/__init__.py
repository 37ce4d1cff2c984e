"""The replicas of one node: their barriers, their memory, sums in it."""
