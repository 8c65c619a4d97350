"""Reboots: guests that start with libvirtd, and what staging leaves."""

import guests
from machine import expect
from plays import play

BOTH = ("container", "vm")
GOOD = ("win11", "mail", "files", "late")

SLOW_HOOK = "/etc/libvirt/hooks/qemu.d/90-slow"
CREDS = "/usr/bin/systemd-creds"
SLOW_CREDS = """#!/bin/sh
[ "$1" != decrypt ] || { echo >>/run/unsealed; sleep 7; }
exec /usr/bin/systemd-creds.real "$@"
"""


def has_booted_well(machine):
    """All that can start run; the other was refused; nothing of staging is left."""
    guests.unstaged(machine)
    guests.all_run(machine, GOOD)
    expect("bad" not in guests.running(machine), "the guest with the wrong key runs")
    # One row of `stage`, one of the hook, which on a slow machine answers before it has opened a key.
    machine.sh("vtpm-guard history bad --limit 2").ok().says("VG204").says_not("allow")
    guests.have_their_first_tpm(machine, GOOD)
    failed = machine.sh("systemctl --failed --no-legend --plain").ok().stdout
    expect(failed == "", f"failed units: {failed}")
    machine.sh("vtpm-guard store check").ok()


@play("reboot: four guests start with libvirtd, the one whose key cannot be proven is refused", on=BOTH)
def reboot(machine):
    guests.bind(machine, "late")
    guests.define(machine, "bad")
    machine.sh("vtpm-guard key bind bad --provider nkp-a").ok()
    guests.start_and_stop(machine, "bad")
    # The state of another guest.
    machine.sh(
        "state() { echo /var/lib/libvirt/swtpm/$(virsh domuuid $1)/tpm2/tpm2-00.permall; }\n"
        "cp -p $(state late) $(state bad)"
    ).ok()
    for name in (*GOOD, "bad"):
        machine.sh(f"virsh -q autostart {name}").ok()
    machine.sh("vtpm-guard check --all").exits(1).says("5 would start, 1 would not")
    machine.reboot()
    has_booted_well(machine)


@play("the power is cut and comes back: the same")
def power_cut(machine):
    machine.cut()
    machine.up()
    has_booted_well(machine)


@play("libvirtd restarted since the boot: no keys are staged, no events are written")
def restarted(machine):
    guests.stop_all(machine)
    count = "vtpm-guard history --limit 1000 | grep -c ' stage '"
    before = machine.sh(count).ok().stdout
    for _ in range(3):
        machine.sh("systemctl stop libvirtd && virsh -q list").ok()
    expect(machine.sh(count).ok().stdout == before, "restarts of libvirtd have written events")
    guests.nothing_is_left_of_staging(machine)


def as_at_a_boot(machine, command="systemctl start libvirtd"):
    guests.stop_all(machine)
    machine.sh("systemctl stop libvirtd && rm -f /run/libvirt/qemu/autostarted").ok()
    return machine.sh(command)


@play("guests that need 70 s to start: libvirtd.service is up at once, and no key stays")
def slow_start(machine):
    machine.sh("for guest in files late bad; do virsh -q autostart --disable $guest; done").ok()
    machine.put(SLOW_HOOK, '#!/bin/sh\n[ "$2" != prepare ] || sleep 35\n', "0755")
    as_at_a_boot(machine, "timeout 20 systemctl start libvirtd").ok()
    guests.unstaged(machine, seconds=100)
    expect(guests.running(machine) == {"win11", "mail"}, "not both guests run")
    machine.sh(f"rm {SLOW_HOOK}\nfor guest in files late bad; do virsh -q autostart $guest; done").ok()


@play("libvirtd cannot start: the keys are gone at once, and the next start works")
def failed_start(machine):
    conf = "/etc/libvirt/libvirtd.conf"
    guests.stop_all(machine)
    machine.sh(f"cp {conf} /root/conf && echo 'no such setting' >>{conf}").ok()
    as_at_a_boot(machine).exits(1)
    left = machine.sh("ls /run/vtpm-guard/staged; find /etc/libvirt/secrets -type l").ok().stdout
    expect(left == "", f"left of staging: {left}")
    machine.sh(f"cp /root/conf {conf} && systemctl reset-failed libvirtd && systemctl start libvirtd").ok()
    guests.unstaged(machine)
    guests.all_run(machine, GOOD)


@play("a TPM that needs 7 s for a key: the guests start with libvirtd all the same", on=BOTH)
def slow_tpm(machine):
    # Its hook would open the key, too: it was not staged.
    machine.sh("virsh -q autostart --disable bad").ok()
    machine.sh(f"mv {CREDS} {CREDS}.real").ok()
    machine.put(CREDS, SLOW_CREDS, "0755")
    as_at_a_boot(machine).ok()
    guests.unstaged(machine)
    guests.all_run(machine, GOOD)
    expect(machine.sh("wc -l </run/unsealed").stdout.strip() == "1", "the key was opened more than once")
    machine.sh(f"mv {CREDS}.real {CREDS} && virsh -q autostart bad").ok()


def saved(machine):
    return set(machine.sh("virsh list --all --with-managed-save --name").ok().stdout.split())


@play("libvirt-guests: saved and resumed, by a restart of the service and over a reboot")
def libvirt_guests(machine):
    machine.put(
        "/etc/default/libvirt-guests",
        "ON_BOOT=start\nON_SHUTDOWN=suspend\nSTART_DELAY=0\nPARALLEL_SHUTDOWN=0\n",
    )
    expect(guests.running(machine) == set(GOOD), f"running: {guests.running(machine)}")
    machine.sh("virsh -q autostart --disable late && systemctl restart libvirt-guests").ok()
    guests.all_run(machine, GOOD)
    # In a shutdown libvirt-guests may find that libvirtd has ended before it: libvirt's own race.
    machine.sh("systemctl stop libvirt-guests").ok()
    expect(saved(machine) == set(GOOD), f"saved: {saved(machine)}")
    machine.reboot()
    guests.all_run(machine, GOOD)
    expect(not saved(machine), f"not resumed: {saved(machine)}")
    guests.unstaged(machine)
    machine.sh("rm /etc/default/libvirt-guests && virsh -q autostart late").ok()
