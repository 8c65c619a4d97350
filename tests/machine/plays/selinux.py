"""Debian with SELinux in the place of AppArmor: the policy module, the domain of the hook, what is denied."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import guests
import pages
from machine import REPOSITORY, expect
from plays import play
from plays.boots import CREDS, as_at_a_boot

MODULE = REPOSITORY / "packaging" / "selinux"
ON = ("selinux",)
# What opens the provider's keys runs in the domain of whoever calls it.
TELLING_CREDS = """#!/bin/sh
cat /proc/self/attr/current >>/run/domains
echo >>/run/domains
exec /usr/bin/systemd-creds.real "$@"
"""
# Debian's policy does not let libvirt start any guest with a TPM: virtd_t may not make swtpm's log, nor
# svirt_t read what swtpm reads. What the guard may do is the question here.
LIBVIRT = "(typepermissive virtd_t)\n(typepermissive svirt_t)\n"


def denials(machine, domain="vtpm_guard_t"):
    """What was denied to a domain since the boot, or would have been; each once."""
    said = machine.sh("journalctl --no-pager -q -b -o cat | grep 'avc: *denied' || true").ok().stdout
    found = (re.sub(r".*avc: *denied|(pid|ino)=\d+ ", "", line) for line in said.splitlines())
    return sorted({line.strip() for line in found if f"scontext=system_u:system_r:{domain}:" in line})


def nothing_denied(machine):
    found = denials(machine)
    expect(not found, "\n".join(["denied to the guard, or would be:", *found]))


def domains(machine):
    """Where systemd-creds has run since this was asked last."""
    said = machine.sh("cat /run/domains && rm /run/domains").ok().stdout.replace("\0", "").split()
    return {context.split(":")[2] for context in said}


def life(machine):
    """What the guard does on a host: keys are made, used, renewed, staged and checked; its units write."""
    new = f"new{machine.sh('virsh list --all --name | grep -c .').ok().stdout.strip()}"
    guests.bind(machine, new)
    machine.sh(f"vtpm-guard key renew {new}").ok()
    guests.start_and_stop(machine, new)
    machine.sh(f"virsh -q autostart {new}").ok()
    as_at_a_boot(machine).ok()
    guests.unstaged(machine)
    guests.all_run(machine, {new})
    # As systemd makes them for units that write there; the note of a start is one of the hook's.
    machine.sh(
        "systemctl start vtpm-guard-check.service vtpm-guard-sync.service\n"
        "systemctl stop vtpm-guard-sync.path && rm -rf /run/vtpm-guard/unsynced\n"
        "systemctl start vtpm-guard-sync.path && test -d /run/vtpm-guard/unsynced"
    ).ok()
    guests.stop_all(machine)


@play("install.md: the policy module, word for word; the files have their types", on=ON)
def module(machine):
    by_hand, *lines = pages.blocks("install.md", "SELinux")[0].splitlines()
    expect("by hand" in by_hand, f"not the line that builds the module: {by_hand}")
    machine.sh("\n".join(lines)).ok()
    machine.sh("ls -Z /usr/sbin/vtpm-guard-hook").ok().says("vtpm_guard_exec_t")
    machine.sh("ls -dZ /var/lib/vtpm-guard").ok().says("vtpm_guard_var_lib_t")
    machine.sh("vtpm-guard doctor").ok().says_not("label")


@play("the hook, stage and the nightly check run in the guard's domain, and do what its rules allow", on=ON)
def domain(machine):
    machine.sh(
        "vtpm-guard provider create nkp-a --default && mkdir -p /mnt/backup && echo horse >/mnt/backup/passphrase\n"
        "vtpm-guard provider export nkp-a --output /mnt/backup/nkp-a --passphrase-file /mnt/backup/passphrase\n"
        "vtpm-guard adopt --all"
    ).ok()
    machine.sh(f"mv {CREDS} {CREDS}.real").ok()
    machine.put(CREDS, TELLING_CREDS, "0755")
    guests.define(machine, "first")
    machine.sh("vtpm-guard key bind first --provider nkp-a; rm -f /run/domains").ok()
    for calls in ("virsh -q start first", "systemctl start vtpm-guard-check"):
        machine.sh(calls).ok()
        expect(domains(machine) == {"vtpm_guard_t"}, f"{calls}: not in the guard's domain")
    machine.sh("virsh -q autostart first").ok()
    as_at_a_boot(machine).ok()
    guests.unstaged(machine)
    expect(domains(machine) == {"vtpm_guard_t"}, "stage: not in the guard's domain")
    machine.sh(f"mv {CREDS}.real {CREDS}").ok()
    life(machine)
    nothing_denied(machine)


@play("SELinux is enforced, but in libvirt's domains: guests start; doctor says that the guard's is permissive", on=ON)
def enforced(machine):
    machine.put("/root/libvirt.cil", LIBVIRT)
    machine.sh("semodule -i /root/libvirt.cil && setenforce 1").ok()
    found = json.loads(machine.sh("vtpm-guard doctor --json").ok().stdout)
    said = [one["severity"] for one in found if "vtpm_guard_t is permissive" in one["what"]]
    expect(said == ["note"], f"doctor does not say it: {found}")
    life(machine)
    nothing_denied(machine)


@play("the guard's domain is enforced, too: guests start", on=ON)
def own_domain_enforced(machine):
    with tempfile.TemporaryDirectory() as place:
        for file in MODULE.iterdir():
            text = file.read_text().replace("permissive vtpm_guard_t;", "")
            copy = Path(place, file.name)
            copy.write_text(text)
            copy.chmod(file.stat().st_mode)
        subprocess.run([Path(place, "build"), Path(place, "vtpm_guard.pp")], check=True)
        machine.put("/root/vtpm_guard.pp", Path(place, "vtpm_guard.pp"))
    machine.sh("semodule -X 200 -i /root/vtpm_guard.pp").ok()
    machine.sh("vtpm-guard doctor").ok().says_not("permissive")
    life(machine)
    nothing_denied(machine)


@play("a reboot with SELinux enforced from its beginning: the guests start with libvirtd", on=ON)
def boot(machine):
    names = set(machine.sh("virsh list --autostart --all --name").ok().stdout.split())
    machine.sh("sed -i 's/^SELINUX=.*/SELINUX=enforcing/' /etc/selinux/config").ok()
    guests.stop_all(machine)
    machine.reboot()
    machine.sh("getenforce").ok().says("Enforcing")
    guests.unstaged(machine)
    guests.all_run(machine, names)
    nothing_denied(machine)
