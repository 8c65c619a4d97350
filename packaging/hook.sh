# shellcheck shell=sh
# The link that makes libvirt run the guard, and the daemon that must notice it. `./dev package`
# puts this text at the head of the scripts in deb/ and rpm/: sh, and nothing but coreutils.

readonly HOOK=/usr/sbin/vtpm-guard-hook
readonly LINK=/etc/libvirt/hooks/qemu.d/50-vtpm-guard
# libvirt before 6.5 runs this one file only.
readonly ONLY_HOOK=/etc/libvirt/hooks/qemu
readonly STATE_DIR=/var/lib/vtpm-guard
# Its being there says: the link has been made, and if it is gone, the administrator took it away.
readonly LINKED=$STATE_DIR/hook-linked

umask 022

say() { echo "vtpm-guard: $1" >&2; }

libvirt_runs_only_one_hook() {
    for daemon in libvirtd virtqemud; do
        version=$($daemon --version 2>/dev/null) || continue
        version=${version##* }
        major=${version%%.*}
        minor=${version#*.}
        minor=${minor%%.*}
        [ "$major" -lt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -lt 5 ]; }
        return
    done
    return 1
}

# At the first installation; not at an upgrade, for then the link is there or is not wanted.
link_hook() {
    [ -d $STATE_DIR ] || mkdir -m 0700 $STATE_DIR
    [ ! -e $LINKED ] || return 0
    link=$LINK
    if libvirt_runs_only_one_hook; then link=$ONLY_HOOK; fi
    if [ "$(readlink $link)" = $HOOK ]; then
        :
    elif [ -e $link ] || [ -L $link ]; then
        say "$link is there already and stays as it is. The guard guards nothing until that file runs"
        say "  $HOOK \"\$@\"   with its own stdin, and ends with its exit status if that is not 0."
        return 0
    else
        mkdir -p "${link%/*}"
        ln -s $HOOK $link
        if command -v restorecon >/dev/null; then restorecon -R /etc/libvirt/hooks || true; fi
    fi
    # As everything there: for root alone.
    (umask 077 && : >$LINKED)
    reload_daemon
}

# Before the program goes. A daemon that is not told goes on calling a hook that is not there.
unlink_hook() {
    for link in $LINK $ONLY_HOOK; do
        if [ "$(readlink "$link")" = $HOOK ]; then rm "$link"; fi
    done
    rm -f $LINKED
    reload_daemon
}

# libvirt looks for hooks when it starts and when it is told to reload.
reload_daemon() {
    if [ -d /run/systemd/system ]; then
        for unit in libvirtd.service virtqemud.service; do
            if systemctl --quiet is-active $unit; then systemctl reload $unit || true; fi
        done
        return
    fi
    for daemon in libvirtd virtqemud; do
        pid=$(cat /run/$daemon.pid 2>/dev/null) || continue
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = $daemon ]; then kill -s HUP "$pid"; fi
    done
}

# systemd reads the units and drop-ins again.
reload_systemd() {
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
}

# Before the unit goes: the nightly check, where the administrator has enabled it.
disable_check() {
    if [ -d /run/systemd/system ]; then
        systemctl --quiet disable --now vtpm-guard-check.timer || true
    fi
}

name_guests_that_lock() {
    key_references=$(vtpm-guard key list 2>/dev/null) || return 0
    [ "$key_references" != "no key references" ] || return 0
    say "without the guard nobody gives these guests their keys. Those that run go on; once stopped,"
    say "they do not start again:"
    echo "$key_references" >&2
    say "their keys stay in $STATE_DIR. Install vtpm-guard again, and they start as before."
}
