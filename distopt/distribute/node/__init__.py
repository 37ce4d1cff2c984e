"""What the replicas of one node share: barriers, memory, sums in it."""
