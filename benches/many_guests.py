#!/usr/bin/python3
"""Measures `status` and `check --all` on a host with a thousand guests, each with an encrypted TPM
of its own, all verified. Runs in a private host, which `./dev bench many` starts.

usage: many_guests.py [GUESTS]
"""

import os
import shutil
import subprocess
import sys
import time
import uuid

import libvirt

GUESTS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
SWTPM = "/var/lib/libvirt/swtpm"
DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{domain}</uuid>
<memory unit='MiB'>16</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'>
<encryption secret='{secret}'/></backend></tpm></devices></domain>"""


def guard(*arguments):
    """Runs vtpm-guard and returns its output."""
    return subprocess.run(["/usr/sbin/vtpm-guard", *arguments], check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout


def define(connection, name):
    """Defines a guest with a secret of its own, and returns its UUID."""
    domain = str(uuid.uuid4())
    connection.defineXML(DOMAIN.format(name=name, domain=domain, secret=uuid.uuid4()))
    return domain


def make_guests():
    """Starts one guest, which gets its key; the others are clones of it, with its TPM state."""
    connection = libvirt.open("qemu:///system")
    guard("provider", "create", "nkp-a", "--default")
    first = define(connection, "vm0")
    guard("key", "bind", "vm0")
    original = connection.lookupByUUIDString(first)
    original.create()
    original.destroy()
    for number in range(1, GUESTS):
        clone = define(connection, f"vm{number}")
        shutil.copytree(f"{SWTPM}/{first}", f"{SWTPM}/{clone}")
        os.chmod(f"{SWTPM}/{clone}", 0o711)
        guard("key", "clone", "vm0", f"vm{number}")


def best_of(times, *arguments):
    """Returns the shortest of several runs, in seconds."""
    runs = []
    for _ in range(times):
        started = time.perf_counter()
        guard(*arguments)
        runs.append(time.perf_counter() - started)
    return min(runs)


def main():
    """Prints a line for each command."""
    make_guests()
    answer = guard("check", "--all").decode()
    print(answer.splitlines()[-1])
    for arguments in (["status"], ["check", "--all"], ["check", "--all", "--json"]):
        print(f"{' '.join(arguments):24} {best_of(3, *arguments):.3f} s with {GUESTS} guests")


if __name__ == "__main__":
    main()
