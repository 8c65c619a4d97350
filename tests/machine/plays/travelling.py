"""The units of `vtpm-guard sync`: keys come into the XML of guests, and go, without anybody's hand."""

import guests
import pages
from machine import wait_for
from plays import play

SECTION = "Keys that travel with the guests"
CONFIG = "/etc/vtpm-guard/config.toml"
SOON = "/etc/systemd/system/vtpm-guard-sync.timer.d"
NAME = "traveller"
SENTENCE = "install.md: keys that travel; a first start makes one, and sync's units write it, again, and remove it"


def keys(machine):
    """How many keys the guest's XML has: now, and at its next start."""
    count = f"virsh dumpxml {NAME} %s | grep -c '<vg:key ' || true"
    shown = machine.sh("\n".join(count % option for option in ("", "--inactive"))).ok()
    return [int(line) for line in shown.stdout.split()]


def has_synced(machine):
    """The service has run, and has left no note and no failure."""

    def ended():
        return machine.sh("systemctl is-active vtpm-guard-sync.service").stdout.strip() == "inactive"

    wait_for("vtpm-guard-sync.service ends", ended)
    machine.sh("systemctl show -p Result vtpm-guard-sync.service").ok().says("Result=success")
    machine.sh("[ -z \"$(ls /run/vtpm-guard/unsynced)\" ]").ok()


def timer(machine):
    """Lets the timer elapse now."""
    machine.sh("systemctl restart vtpm-guard-sync.timer").ok()


@play(SENTENCE)
def keys_travel(machine):
    config, = pages.blocks("install.md", SECTION, "toml")
    machine.put(CONFIG, config)
    pages.play(machine, "install.md", SECTION)
    machine.sh("systemctl is-active vtpm-guard-sync.path vtpm-guard-sync.timer").ok()
    machine.sh("systemctl list-timers --no-legend vtpm-guard-sync.timer").ok().says("vtpm-guard-sync.service")

    guests.define(machine, NAME)
    machine.sh(f"vtpm-guard key bind {NAME} --provider nkp-a && virsh dumpxml {NAME} >/root/{NAME}.xml").ok()
    guests.start(machine, NAME)
    wait_for("the key comes into the XML", lambda: keys(machine) == [1, 1])
    has_synced(machine)
    machine.sh("journalctl -q -o cat -u vtpm-guard-sync.service").ok().says("written for 1 guest")
    machine.sh(f"vtpm-guard check {NAME} && systemctl reset-failed && vtpm-guard doctor").ok().says_not("sync")

    machine.put(f"{SOON}/10-soon.conf", "[Timer]\nOnCalendar=\nOnActiveSec=1s\nAccuracySec=100ms\nRandomizedDelaySec=0\n")
    machine.sh(f"systemctl daemon-reload && virsh -q define /root/{NAME}.xml").ok()
    timer(machine)
    wait_for("the key comes back after another definition", lambda: keys(machine) == [1, 1])
    has_synced(machine)

    machine.put(CONFIG, "")
    timer(machine)
    wait_for("the key goes", lambda: keys(machine) == [0, 0])
    has_synced(machine)
    guests.stop(machine, NAME)
    guests.start_and_stop(machine, NAME)
    guests.have_their_first_tpm(machine, (NAME,))
    machine.sh(f"virsh -q undefine {NAME} && vtpm-guard key unbind {NAME}").ok()
    machine.sh(f"rm -r {SOON} && systemctl daemon-reload && systemctl disable --now vtpm-guard-sync.path "
               "vtpm-guard-sync.timer").ok()
