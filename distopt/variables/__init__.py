"""Variables, sparse gradients and the tape."""
