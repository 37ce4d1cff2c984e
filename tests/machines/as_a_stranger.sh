#!/usr/bin/env bash
# Run a command where strangers run it: in a fresh clone of what is committed here, which is called distopt, in a path
# with a space, as an ordinary user: tests/machines/as_a_stranger.sh make test
# PYTHON names the Python that make takes there.
set -euo pipefail

repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
clone="$home/my code/distopt"
git clone --quiet "$repository" "$clone"

user=()
if [ "$(id -u)" -eq 0 ]; then
    chown -R nobody: "$home"
    user=(setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups)
fi

find_python() { # as the user that the arguments make
    local candidate
    for candidate in $(type -aP "${PYTHON:-python3}"); do
        if "$@" "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

if ! python=$(find_python "${user[@]}"); then
    echo "as_a_stranger.sh: only $(id -un) can run ${PYTHON:-python3}, so no ordinary user does" >&2
    user=()
    python=$(find_python)
fi

cd "$clone"
env --unset=MAKEFLAGS --unset=MAKELEVEL --unset=VIRTUAL_ENV HOME="$home" PYTHON="$python" "${user[@]}" "$@"
