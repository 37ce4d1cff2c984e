"""Sums and updates in the memory that the replicas of a node share."""
