#!/usr/bin/env bash
# Run the quick part and tests/failing on other Pythons: tests/machines/other_pythons.sh 3.13
# TARGETS in the environment names other targets of make.
# Each comes from a bare machine of Debian, where root has debootstrap, else from PATH or pyenv; else it is left out.
set -uo pipefail

here=$(dirname "$0")
declare -A releases=([3.13]=trixie [3.14]=sid)
results=()
status=0
: "${TARGETS:=lint types test-unit test-failing}"

[ $# -gt 0 ] || set -- 3.12 3.13 3.14
for version in "$@"; do
    release=${releases[$version]-}
    if [ -n "$release" ] && [ "$(id -u)" -eq 0 ] && type -P debootstrap >/dev/null; then
        run=("$here/in_a_chroot.sh" "$release")
        source="a bare machine of Debian's $release"
    else
        export PYTHON=python$version
        for folder in ~/.pyenv/versions/"$version".*/bin; do PATH=$folder:$PATH; done
        if ! "$PYTHON" -c "" 2>/dev/null; then
            results+=("Python $version: left out, there is none here")
            continue
        fi
        run=("$here/as_a_stranger.sh")
        source=$(type -P "$PYTHON")
    fi
    # shellcheck disable=SC2086  # several targets
    if "${run[@]}" make $TARGETS; then
        results+=("Python $version ($source): passed")
    else
        results+=("Python $version ($source): FAILED")
        status=1
    fi
done
printf '%s\n' "" "${results[@]}"
exit $status
