"""Agreement before anything moves: the contract of a transport, the header, waiting."""
