"""Steps whose gradients come one by one and are summed meanwhile."""
