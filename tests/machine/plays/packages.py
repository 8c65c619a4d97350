"""The package installed again, removed and purged, with guests that run."""

import guests
from machine import expect, wait_for
from plays import play
from plays.setting_up import daemon

LINK = "/etc/libvirt/hooks/qemu.d/50-vtpm-guard"
NAMES = {"win11", "late"}


def has_link(machine):
    return machine.sh(f"[ -L {LINK} ]").status == 0


@play("installed again: the daemon runs on, the timer stays enabled, a link that was removed stays away")
def reinstalled(machine):
    before = daemon(machine)
    machine.sh("apt-get install -y --reinstall /root/target/packages/*.deb").ok()
    machine.sh("systemctl is-enabled vtpm-guard-check.timer && vtpm-guard doctor").ok()
    machine.sh(f"rm {LINK} && apt-get install -y --reinstall /root/target/packages/*.deb").ok()
    expect(not has_link(machine), "the link was made again")
    machine.sh(f"ln -s /usr/sbin/vtpm-guard-hook {LINK} && systemctl reload libvirtd").ok()
    expect(daemon(machine) == before, "libvirtd was restarted")
    guests.all_run(machine, NAMES)


@play("removed: link, drop-in and units are gone, guests run on, and libvirt refuses those with a key")
def removed(machine):
    machine.sh("apt-get remove -y vtpm-guard").ok().says("Install vtpm-guard again")
    expect(not has_link(machine), "the link is there")
    shown = machine.sh("systemctl show -p DropInPaths -p NeedDaemonReload libvirtd").ok()
    shown.says_not("vtpm-guard").says("NeedDaemonReload=no")
    machine.sh("systemctl list-units --all 'vtpm-guard*'").ok().says("0 loaded units")
    machine.sh("systemctl restart libvirtd").ok()
    guests.all_run(machine, NAMES)
    guests.stop(machine, "late")
    machine.sh("virsh start late").exits(1).says("Secret not found")


@play("purged and installed again: the configuration is gone, the keys stay, and the same TPMs start")
def purged(machine):
    machine.sh("apt-get purge -y vtpm-guard").ok().says("the keys of guests stay")
    machine.sh("[ ! -e /etc/vtpm-guard ] && [ -s /var/lib/vtpm-guard/store.db ]").ok()
    machine.sh("apt-get install -y /root/target/packages/*.deb").ok()
    guests.stop(machine, "win11")
    for name in ("win11", "mail", "files", "db", "late"):
        guests.start_and_stop(machine, name)
    guests.have_their_first_tpm(machine, ("win11", "mail", "files", "db", "late"))


@play("removed and installed while libvirtd sleeps: nobody wakes it, and its socket brings the hook")
def asleep(machine):
    # A connection may still keep it.
    wait_for("libvirtd stops", lambda: machine.sh("systemctl stop libvirtd").status == 0)
    machine.sh("apt-get remove -y vtpm-guard && apt-get install -y /root/target/packages/*.deb").ok()
    state = machine.sh("systemctl is-active libvirtd").stdout.strip()
    expect(state == "inactive", f"libvirtd is {state}")
    guests.start_and_stop(machine, "late")
    machine.sh("vtpm-guard check --all && vtpm-guard store check").ok()
