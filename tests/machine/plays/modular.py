"""libvirt's modular daemons under systemd: the drop-in of virtqemud, sockets, guests that autostart."""

import guests
from machine import expect, wait_for
from plays import play, travelling

ON = ("modular",)
NAMES = ("win11", "mail", "late")


def has_started_its_guests(machine):
    """With their keys, through virtsecretd; nothing was staged for that."""
    guests.all_run(machine, NAMES)
    guests.have_their_first_tpm(machine, NAMES)
    machine.sh("systemctl is-active virtsecretd.socket").ok()
    machine.sh("vtpm-guard history --limit 1000").ok().says_not(" stage ").says_not("VG")

    def dropped():
        return machine.sh("virsh secret-list | tail -n +3").ok().stdout.strip() == ""

    wait_for("the secrets are dropped", dropped)


@play("the drop-in of virtqemud.service is in effect, and brings virtsecretd's socket", on=ON)
def drop_in(machine):
    for kind in ("Wants", "After"):
        machine.sh(f"systemctl show --value -p {kind} virtqemud.service").ok().says("virtsecretd.socket")
    machine.sh("systemd-analyze verify virtqemud.service 2>&1 | grep 50-vtpm-guard || true").says_not("vtpm-guard.conf")
    machine.sh("systemctl stop virtsecretd.socket virtsecretd.service && virsh secret-list").exits(1)
    machine.sh("systemctl restart virtqemud.service && virsh secret-list").ok()


@play("libvirt's keys are taken over, and a guest gets one of its own", on=ON)
def adopted(machine):
    machine.sh(
        "mkdir -p /mnt/backup && echo correct-horse >/mnt/backup/passphrase\n"
        "vtpm-guard provider create nkp-a --default\n"
        "vtpm-guard provider export nkp-a --output /mnt/backup/nkp-a --passphrase-file /mnt/backup/passphrase\n"
        "vtpm-guard adopt --all"
    ).ok().says("2 adopted")
    guests.bind(machine, "late")
    guests.stop_all(machine)
    machine.sh("systemctl enable --now vtpm-guard-check.timer && vtpm-guard doctor").ok().says("nothing found")


@play("reboot: virtqemud starts its guests with their keys, although nobody has enabled virtsecretd", on=ON)
def reboot(machine):
    machine.sh(f"for guest in {' '.join(NAMES)}; do virsh -q autostart $guest; done").ok()
    machine.reboot()
    has_started_its_guests(machine)
    expect(machine.sh("systemctl --failed --no-legend --plain").ok().stdout == "", "units have failed")


@play("virtqemud's socket starts it, and it starts its guests", on=ON)
def socket(machine):
    guests.stop_all(machine)
    machine.sh("systemctl stop virtqemud.service virtsecretd.service virtsecretd.socket").ok()
    machine.sh("rm /run/libvirt/qemu/autostarted").ok()
    machine.sh("virsh -q list").ok()
    has_started_its_guests(machine)


@play("virtsecretd killed and virtqemud restarted under running guests: they run on, stop and start again", on=ON)
def restarted(machine):
    for end in ("kill -9 $(pidof virtsecretd)", "systemctl restart virtqemud"):
        machine.sh(f"virsh -q secret-list && {end}").ok()
        guests.all_run(machine, NAMES)
        for name in NAMES:
            guests.stop(machine, name)
            guests.start(machine, name)
    machine.sh("vtpm-guard doctor && vtpm-guard check --all").ok()


play(travelling.SENTENCE, on=ON)(travelling.keys_travel)
