"""What ``distopt verify`` does: the first step on one and on several replicas, compared."""
