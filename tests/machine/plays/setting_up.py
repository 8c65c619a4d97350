"""docs/install.md and docs/first-day.md, word for word."""

import guests
import pages
from machine import REPOSITORY, expect
from plays import play

BOTH = ("container", "vm")
ALL = (*BOTH, "modular", "selinux")
PACKAGES = REPOSITORY / "target" / "packages"


def daemon(machine):
    return machine.sh(f"systemctl show --value -p MainPID {machine.daemon}").ok().stdout.strip()


@play("virtsecretd is not started at boot; until its socket is asked for, libvirt has no secrets", on=("modular",))
def secrets(machine):
    machine.sh("virsh secret-list").exits(1)
    machine.sh("systemctl start virtsecretd.socket && virsh secret-list").ok()


@play("three guests run under libvirt alone", on=ALL)
def before(machine):
    for name, private in (("win11", "no"), ("mail", "yes")):
        guests.define_with_secret(machine, name, private)
    guests.define(machine, "files", encrypted=False)
    for name in ("win11", "files"):
        guests.start_and_stop(machine, name)
    machine.sh("virsh -q autostart mail").ok()
    guests.start(machine, "mail")


@play("install.md: the package, word for word; libvirtd is reloaded, not restarted", on=ALL)
def install(machine):
    package = next(PACKAGES.glob("*.deb"))
    machine.put(f"/root/target/packages/{package.name}", package)
    line = pages.blocks("install.md", "From a package")[0].splitlines()[0]
    expect("Debian" in line, f"not the line for Debian: {line}")
    before = daemon(machine)
    machine.sh(f"cd /root\n{line}").ok()
    expect(daemon(machine) == before, "libvirtd was restarted")
    expect(guests.running(machine) == {"mail"}, "the running guest does not run any more")
    pages.play(machine, "install.md", "Verify the installation")


@play("systemd finds nothing wrong with the units, and nothing has failed", on=BOTH)
def units(machine):
    own = (
        "vtpm-guard-check.service vtpm-guard-check.timer vtpm-guard-unstage.service vtpm-guard-sync.service "
        "vtpm-guard-sync.path vtpm-guard-sync.timer vtpm-guard-open.service vtpm-guard-open.timer "
        "vtpm-guard-fleet.service libvirtd.service"
    )
    machine.sh(f"systemd-analyze verify {own} 2>&1 | grep vtpm-guard || true").says_not("vtpm-guard")
    expect(machine.sh("systemctl --failed --no-legend").ok().stdout == "", "units have failed")
    machine.sh("man -w vtpm-guard vtpm-guard-hook vtpm-guard.toml vtpm-guard-codes").ok()


@play("first-day.md, word for word: two guests adopted, one encrypted, one new", on=BOTH)
def first_day(machine):
    machine.sh("mkdir -p /mnt/backup && echo correct-horse >/mnt/backup/passphrase").ok()

    def day(heading):
        return pages.play(machine, "first-day.md", heading)

    day("Take stock").says("3 guests: 3 would start").says("win11")
    day("Create a provider and its recovery file")
    day("Take over libvirt's keys").says("2 guests: 2 adopted")
    day("Encrypt unencrypted vTPMs")
    day("Guests that autostart with libvirtd").says("vtpm-guard stage").says("mail")
    day("Nightly check")
    verified = day("Verify, and back up").says("3 guests: 3 would start")
    # On a machine with a TPM doctor has a note on what depends on it.
    verified.says("0 errors" if machine.has_tpm else "nothing found")
    guests.define(machine, "db")
    day("Add a new guest")
    plain = machine.sh("find /etc/libvirt/secrets /var/lib/vtpm-guard/plain-state -type f").stdout
    expect(plain == "", f"keys or states in plaintext: {plain}")
    guests.stop_all(machine)
    for name in ("win11", "mail", "files", "db"):
        guests.start_and_stop(machine, name)
    guests.have_their_first_tpm(machine, ("win11", "mail", "files", "db"))
