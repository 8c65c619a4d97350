"""Guests in the machine: 16 MiB, no disk, one TPM each."""

import uuid

from machine import expect, wait_for

XML = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><on_poweroff>destroy</on_poweroff>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>
<memballoon model='none'/><tpm model='tpm-crb'><backend type='emulator' version='2.0'>{encryption}
</backend></tpm></devices></domain>
"""
SECRET = """<secret ephemeral='no' private='{private}'><uuid>{uuid}</uuid>
<usage type='vtpm'><name>{name}-tpm</name></usage></secret>
"""


def define(machine, name, encrypted=True, state=None):
    """Defines a guest, and returns the UUID of the secret that its XML names. `state`: the directory of its TPM state."""
    secret = str(uuid.uuid4())
    backend = f"<encryption secret='{secret}'/>" if encrypted else ""
    backend += f"<source type='dir' path='{state}'/>" if state else ""
    machine.sh("virsh -q define /dev/stdin", XML.format(name=name, encryption=backend)).ok()
    return secret


def define_with_secret(machine, name, private):
    """Defines a guest whose key only libvirt has, as before the guard was installed."""
    secret = define(machine, name)
    definition = SECRET.format(uuid=secret, name=name, private=private)
    machine.sh("virsh -q secret-define /dev/stdin", definition).ok()
    machine.sh(
        "head -c 24 /dev/urandom | base64 -w0 >/run/value\n"
        f"virsh -q secret-set-value {secret} --file /run/value --plain\n"
        "rm /run/value"
    ).ok()


def bind(machine, name, state=None):
    """Defines a guest whose key the guard makes, and lets it use its TPM once."""
    define(machine, name, state=state)
    machine.sh(f"vtpm-guard key bind {name} --provider nkp-a").ok()
    start_and_stop(machine, name)


def start(machine, name):
    machine.sh(f"virsh -q start {name}").ok()


def stop(machine, name):
    machine.sh(f"virsh -q destroy {name}").ok()


def start_and_stop(machine, name):
    start(machine, name)
    stop(machine, name)


def running(machine):
    return set(machine.sh("virsh list --name").ok().stdout.split())


def stop_all(machine):
    for name in running(machine):
        stop(machine, name)


def all_run(machine, names, seconds=60):
    wait_for(f"{sorted(names)} run", lambda: set(names) <= running(machine), seconds * machine.slowness)


def have_their_first_tpm(machine, names):
    """swtpm says in its log each time that it makes a TPM."""
    for name in names:
        log = f"/var/log/swtpm/libvirt/qemu/{name}-swtpm.log"
        made = machine.sh(f"grep -c 'Starting vTPM manufacturing' {log}").stdout.strip()
        expect(made == "1", f"{name} has had {made} TPMs")


def nothing_is_left_of_staging(machine):
    """No key on tmpfs, no link in libvirt's directory, no secret in libvirtd's memory."""
    left = machine.sh(
        "ls /run/vtpm-guard/staged 2>/dev/null || true; find /etc/libvirt/secrets -type l"
    ).ok()
    expect(left.stdout == "", f"left of staging: {left.stdout}")
    secrets = machine.sh("virsh secret-list | tail -n +3").ok().stdout.strip()
    expect(secrets == "", f"libvirt has secrets: {secrets}")


def unstaged(machine, seconds=60):
    """Waits for vtpm-guard-unstage.service, then looks that nothing is left."""

    def ended():
        return machine.sh("systemctl is-active vtpm-guard-unstage.service").stdout.strip() == "inactive"

    wait_for("vtpm-guard-unstage.service ends", ended, seconds * machine.slowness)
    nothing_is_left_of_staging(machine)
