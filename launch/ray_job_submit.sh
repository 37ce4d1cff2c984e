#!/usr/bin/env bash
# Train on a Ray cluster: launch/ray_job_submit.sh 4 examples/train.py --config configs/digits.toml
# The cluster, in an environment that has distopt[ray] and under the same path on every node:
#   once:         ray get-auth-token --generate    (makes ~/.ray/auth_token)
#   head:         RAY_AUTH_MODE=token ray start --head
#   other nodes:  RAY_AUTH_MODE=token ray start --address=HEAD:6379    (with a copy of the head's token file)
set -euo pipefail

replicas=${1:?usage: ray_job_submit.sh REPLICAS SCRIPT [ARGUMENTS]}
shift

export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}     # the head's dashboard
export RAY_AUTH_MODE=token                                                     # Ray lets nobody in without
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}       # the head's token

if [[ -z ${RAY_AUTH_TOKEN:-} && ! -s $RAY_AUTH_TOKEN_PATH ]]; then
    echo "ray_job_submit.sh: there is no token in $RAY_AUTH_TOKEN_PATH: copy it from the head, or, before you start" \
        "the head, make one with: ray get-auth-token --generate" >&2
    exit 1
fi

# The files of this directory travel to all nodes (at most 100 MB), but for .git and what .gitignore names. The script
# runs in that copy, which goes with the cluster: what is to last, such as checkpoints, needs an absolute path.
exec ray job submit --working-dir . -- distopt run --backend ray -n "$replicas" "$@"
