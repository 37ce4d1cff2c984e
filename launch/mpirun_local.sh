#!/usr/bin/env bash
# Train on this machine: launch/mpirun_local.sh 4 examples/train.py --config configs/digits.toml
# `distopt run -n 4 SCRIPT ...` finds all of this out by itself; here it is written down.
set -euo pipefail

replicas=${1:?usage: mpirun_local.sh REPLICAS SCRIPT [ARGUMENTS]}
shift

flags=()
if mpirun --version | grep -q "Open MPI"; then
    flags+=(--oversubscribe)                          # more replicas than cores; hardware threads count, too
    flags+=(--bind-to none)                           # replicas with several threads need several cores
    [ "$(id -u)" -ne 0 ] || flags+=(--allow-run-as-root)
    export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,sm,tcp  # one node: don't look for network cards (saves a second)
fi                                                    # MPICH's mpirun needs no flags

export DISTOPT_THREADS=${DISTOPT_THREADS:-1}          # threads of each replica

# Stop it with Ctrl-C or SIGTERM. Never kill -9 mpirun: its replicas would stay behind.
exec mpirun ${flags[@]+"${flags[@]}"} -n "$replicas" python "$@"
