"""One transport a file: the only places that know MPI, threads or sockets."""
