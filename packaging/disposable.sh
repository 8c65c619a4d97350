# Common to what plays on a disposable system (`suite try`): install-test, repository/try, ansible/try.
# shellcheck shell=bash

readonly SAID=/run/disposable.said

step() { printf -- '- %s\n' "$1"; }

fail() {
    printf '%s: line %s: %s\n' "${0##*/}" "${BASH_LINENO[-2]}" "$1" >&2
    [ ! -s $SAID ] || sed 's/^/    /' $SAID >&2
    exit 1
}

said() { grep -qF -- "$1" $SAID || fail "it did not say: $1"; }

# Runs the calling script, with these arguments, in namespaces of its own, which end with it.
own_namespaces() {
    [ "${INSIDE:-}" = yes ] ||
        INSIDE=yes exec unshare --mount --pid --net --ipc --uts --fork --kill-child \
            --propagation private --mount-proc tini -s -- "$0" "$@"
}

start_daemons() {
    umount -R -l /sys/fs/cgroup 2>/dev/null || true
    if [ -c /dev/kvm ]; then
        mknod -m 0666 /run/kvm c 10 232
        mount --bind /run/kvm /dev/kvm
    fi
    printf 'security_driver = "none"\nnamespaces = []\n' >>/etc/libvirt/qemu.conf
    printf 'auth_unix_rw = "none"\n' >>/etc/libvirt/libvirtd.conf
    virtlogd -d
    libvirtd -d
    timeout 60 virsh uri >/dev/null
}

# Installs tools for the test from this Debian's own repository, whose lists may be old.
install_tools() {
    apt-get -o Acquire::Check-Valid-Until=false update >$SAID 2>&1 || fail "no lists of packages"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$@" >$SAID 2>&1 ||
        fail "the tools cannot be installed"
}

# rpm does not know Debian's own packages: one without files says that what the package $1 needs is here.
stand_in() {
    local needs place
    place=$(mktemp -d)
    needs=$(rpm --query --package --requires "$1" 2>/dev/null | grep -v '^rpmlib(' | sort -u)
    {
        printf 'Name: of-debian\nVersion: 1\nRelease: 1\nSummary: what Debian has\nLicense: none\nBuildArch: noarch\n'
        while read -r need; do printf 'Provides: %s\n' "$need"; done <<<"$needs"
        printf '%%description\n.\n%%files\n'
    } >"$place/of-debian.spec"
    rpmbuild --quiet -bb --define "_rpmdir $place" "$place/of-debian.spec" >$SAID 2>&1 || fail "no stand-in"
    rpm --install --nodeps "$place"/noarch/of-debian-*.rpm
    rm -r "$place"
}
