# shellcheck shell=sh
# The SELinux module, where there is SELinux. packaging/make puts this text into the scripts of rpm/.

readonly MODULE=/usr/share/selinux/packages/vtpm_guard.pp
# Above the modules of the distribution, and below those of the administrator (400).
readonly PRIORITY=200

# The policy that this host is configured for, also while SELinux is off.
selinux_policy() {
    command -v semodule >/dev/null || return 1
    sed -n 's/^SELINUXTYPE=//p' /etc/selinux/config 2>/dev/null | grep .
}

label_files() {
    command -v restorecon >/dev/null || return 0
    for path in /usr/sbin/vtpm-guard /usr/sbin/vtpm-guard-hook /usr/libexec/vtpm-guard-libvirt \
        $STATE_DIR /run/vtpm-guard; do
        if [ -e $path ]; then restorecon -R $path || true; fi
    done
}

load_policy_if_on() {
    if command -v selinuxenabled >/dev/null && selinuxenabled; then load_policy || true; fi
}

# At an upgrade, too: the new module replaces the old one.
install_selinux_module() {
    policy=$(selinux_policy) || return 0
    if ! semodule -n -s "$policy" -X $PRIORITY -i $MODULE; then
        say "the SELinux module $MODULE could not be installed: vtpm-guard doctor says what SELinux denies."
        return 0
    fi
    load_policy_if_on
    label_files
}

remove_selinux_module() {
    policy=$(selinux_policy) || return 0
    semodule -n -s "$policy" -X $PRIORITY -r vtpm_guard || return 0
    load_policy_if_on
    label_files
}
