#!/usr/bin/env bash
# Run a command as a stranger on a bare machine: one of Debian's or Ubuntu's releases with Python, venv, make and git,
# and nothing else: tests/machines/in_a_chroot.sh trixie make test
# Needs root and debootstrap. The machine is made once, in a cache, and never written to.
set -euo pipefail

release=$1
shift
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
machines=${XDG_CACHE_HOME:-$HOME/.cache}/distopt-machines
machine=$machines/$release

case $release in
    noble) mirror=http://archive.ubuntu.com/ubuntu keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg ;;
    *) mirror=http://deb.debian.org/debian keyring=/usr/share/keyrings/debian-archive-keyring.gpg ;;
esac
if [ ! -d "$machine" ]; then
    mkdir -p "$machines"
    debootstrap --variant=minbase --include=python3,python3-venv,make,git,ca-certificates --keyring="$keyring" \
        "$release" "$machine.new" "$mirror" >"$machine.log"
    mv "$machine.new" "$machine"
fi

# What the registries need here: names, certificates, and pip's settings of this machine
settings=()
while IFS= read -r setting; do settings+=("$setting"); done < <(env | grep -E '^(PIP_(CERT|INDEX|TIMEOUT|DEFAULT_TIMEOUT)|https?_proxy=|no_proxy=)' || true)

export release machine repository
# Mounts and processes end with the command.
# shellcheck disable=SC2016  # the new bash expands it
exec unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
    upper=$(mktemp -d)
    mount -t tmpfs tmpfs "$upper"
    mkdir "$upper/changes" "$upper/work" "$upper/root"
    root=$upper/root
    mount -t overlay -o "lowerdir=$machine,upperdir=$upper/changes,workdir=$upper/work" overlay "$root"
    mount -t proc proc "$root/proc"
    mount --rbind --make-rslave /sys "$root/sys"
    mkdir -p "$root/dev/shm" "$root/repository"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount --bind "$repository" "$root/repository"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    exec chroot "$root" env -i HOME=/root PATH=/usr/bin:/usr/sbin:/bin:/sbin LANG=C.UTF-8 "$@"
' in_a_chroot "${settings[@]}" /repository/tests/machines/as_a_stranger.sh "$@"
