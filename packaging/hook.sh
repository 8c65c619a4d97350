# shellcheck shell=sh
# The link that makes libvirt run the guard, and the daemon that must pick it up. packaging/make
# puts this text at the head of the scripts in deb/ and rpm/, which use sh, coreutils, grep and sed only, and
# before it, from hooks/: HOOK, the program; LINK, the link to it; ONLY_HOOK, the one file that
# libvirt before 6.5 runs.

readonly STATE_DIR=/var/lib/vtpm-guard
# If this file exists, the link was made before; if the link is missing then, the administrator
# removed it.
readonly LINKED=$STATE_DIR/hook-linked
# Made when the running daemon was told to look for hooks, so that doctor does not advise it.
readonly NOTICED=$STATE_DIR/hook-noticed

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

# At the very first installation on this system: what an earlier system has left in a /var that was kept says nothing of
# this one, whose link nobody has removed.
forget_earlier_system() { rm -f $LINKED $NOTICED; }

# At the first installation only: at an upgrade the link exists or is not wanted.
link_hook() {
    [ -d $STATE_DIR ] || mkdir -m 0700 $STATE_DIR
    [ ! -e $LINKED ] || return 0
    link=$LINK
    if libvirt_runs_only_one_hook; then link=$ONLY_HOOK; fi
    if [ "$(readlink $link)" = $HOOK ]; then
        :
    elif [ -e $link ] || [ -L $link ]; then
        say "$link already exists and is not changed. The guard has no effect until that file runs"
        say "  $HOOK \"\$@\"   with its own stdin, and exits with its exit status if that is not 0."
        return 0
    else
        mkdir -p "${link%/*}"
        ln -s $HOOK $link
        if command -v restorecon >/dev/null; then restorecon -R /etc/libvirt/hooks || true; fi
    fi
    # Readable by root only, like everything in that directory.
    (umask 077 && : >$LINKED)
    if reload_daemon; then (umask 077 && : >$NOTICED); fi
}

# Before the program is removed: a daemon that is not reloaded would call a hook that is missing.
unlink_hook() {
    for link in $LINK $ONLY_HOOK; do
        if [ "$(readlink "$link")" = $HOOK ]; then rm "$link"; fi
    done
    rm -f $LINKED $NOTICED
    reload_daemon || true
}

# libvirt looks for hooks when it starts and when it is reloaded. Fails if one of the daemons that
# run was not reloaded.
reload_daemon() {
    reloaded=0
    if [ -d /run/systemd/system ]; then
        for unit in libvirtd.service virtqemud.service; do
            if systemctl --quiet is-active $unit; then systemctl reload $unit || reloaded=1; fi
        done
        return $reloaded
    fi
    for daemon in libvirtd virtqemud; do
        pid=$(cat /run/$daemon.pid 2>/dev/null) || continue
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = $daemon ]; then kill -s HUP "$pid" || reloaded=1; fi
    done
    return $reloaded
}

# systemd reads units and drop-ins again.
reload_systemd() {
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
}

# After an upgrade: what follows the fleet still runs the program that was replaced, or has ended for a configuration that
# only this release knows. Nothing happens where it is not enabled, or was stopped.
restart_fleet() {
    [ -d /run/systemd/system ] || return 0
    systemctl try-restart vtpm-guard-fleet.service || true
    if systemctl --quiet is-enabled vtpm-guard-fleet.service &&
        systemctl --quiet is-failed vtpm-guard-fleet.service; then
        systemctl restart vtpm-guard-fleet.service || true
    fi
}

# Before the units are removed: those that the administrator has enabled. Another installation enables none of them.
disable_units() {
    [ -d /run/systemd/system ] || return 0
    units="vtpm-guard-check.timer vtpm-guard-sync.timer vtpm-guard-sync.path vtpm-guard-open.timer
        vtpm-guard-open.service vtpm-guard-fleet.service"
    enabled=
    for unit in $units; do
        if systemctl --quiet is-enabled "$unit" 2>/dev/null; then enabled="$enabled $unit"; fi
    done
    # shellcheck disable=SC2086
    systemctl --quiet disable --now $units || true
    [ -z "$enabled" ] || say "disabled:$enabled. After another installation: systemctl enable --now$enabled"
}

name_guests_that_lock() {
    key_references=$(vtpm-guard key list 2>/dev/null) || return 0
    [ "$key_references" != "no key references" ] || return 0
    say "without the guard these guests get no keys. Running guests are not affected; once stopped,"
    say "they cannot start again:"
    echo "$key_references" >&2
    say "their keys stay in $STATE_DIR. Install vtpm-guard again to start them as before."
}

# libvirt deletes the TPM state of a transient guest when it stops, and it is the hook that saves it then.
name_guests_whose_state_goes() {
    transient=$(running_transient_guests)
    [ -n "$transient" ] || return 0
    say "WARNING: these running guests are transient: libvirt deletes their TPM state when they stop, and nothing"
    say "saves it without the guard. Install vtpm-guard again before they stop, or their TPMs are lost:"
    echo "$transient" >&2
}

# The names of those whose encrypted vTPM has a key here, by libvirt's files: also where libvirt does not answer. Nothing is
# lost where each run has a new TPM (policy.transient_state).
running_transient_guests() {
    if grep -qs '^[[:space:]]*transient_state[[:space:]]*=[[:space:]]*["'\'']fresh' /etc/vtpm-guard/config.toml; then return; fi
    keyed=$(vtpm-guard key list --json 2>/dev/null) || keyed=
    for status in /run/libvirt/qemu/*.xml; do
        name=${status##*/}
        if [ ! -f "$status" ] || [ -e "/etc/libvirt/qemu/$name" ]; then continue; fi
        backend=$(sed -n '/<tpm[ >]/,/<\/tpm>/p' "$status")
        case $backend in
        *"persistent_state='yes'"*) continue ;;
        *"<encryption "*) ;;
        *) continue ;;
        esac
        uuid=$(sed -n '/<domain /,$ s|^ *<uuid>\([0-9a-f-]*\)</uuid>$|\1|p' "$status" | head -n 1)
        [ -n "$uuid" ] || continue
        # The mark of a run that began under the guard, which saves its state also without a key reference.
        if [ -e "/run/vtpm-guard/running/$uuid" ] || echo "$keyed" | grep -q "\"$uuid\""; then
            printf '%s' "${name%.xml}" | tr '[:cntrl:]' '?'
            echo
        fi
    done
}
