"""The gradients of one step, from the user's arrays to the update kernels."""
