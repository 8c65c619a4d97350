#!/usr/bin/python3
"""Measures commands on a host with many guests, each with an encrypted TPM of its own, all verified, and how long the
start of another guest takes while they run. Runs in a private host, which `./dev bench many` starts. Exits with 1 if a
target is not reached.

usage: many_guests.py FILL-STORE [GUESTS]: the built benches/fill_store.rs, and how many guests (10,000)
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid

import libvirt

from run_once import prepare

FILL_STORE = sys.argv[1]
GUESTS = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
STATE = "/var/lib/vtpm-guard"
SWTPM = "/var/lib/libvirt/swtpm"
DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{domain}</uuid>
<memory unit='MiB'>16</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'>
<encryption secret='{secret}'/></backend></tpm></devices></domain>"""

missed = []


def guard(*arguments):
    """Runs vtpm-guard and returns its output."""
    return subprocess.run(["/usr/sbin/vtpm-guard", *arguments], check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout


def define(connection, name):
    """Defines a guest with a secret of its own, and returns the UUIDs of both."""
    domain, secret = str(uuid.uuid4()), str(uuid.uuid4())
    connection.defineXML(DOMAIN.format(name=name, domain=domain, secret=secret))
    return domain, secret


def make_guests(connection):
    """Starts one guest, which gets its key; the others are clones of it, with its key and its TPM state."""
    guard("provider", "create", "nkp-a", "--default")
    first, _ = define(connection, "vm0")
    guard("key", "bind", "vm0")
    original = connection.lookupByUUIDString(first)
    original.create()
    original.destroy()
    clones = [define(connection, f"vm{number}") for number in range(1, GUESTS)]
    for clone, _ in clones:
        shutil.copytree(f"{SWTPM}/{first}", f"{SWTPM}/{clone}")
        os.chmod(f"{SWTPM}/{clone}", 0o711)
    subprocess.run([FILL_STORE, STATE, "like", first], input="\n".join(clone for clone, _ in clones).encode(),
                   check=True, stdout=subprocess.DEVNULL)
    with sqlite3.connect(f"{STATE}/store.db") as store:
        store.executemany("UPDATE key_ref SET secret_uuid = ?2 WHERE resource_uuid = ?1", clones)


def line(what, starts):
    """Prints what starts took, as median and longest."""
    ordered = sorted(starts)
    print(f"  {what:<32} {ordered[len(ordered) // 2]:8.1f} ms {ordered[-1]:8.1f} ms  ({len(starts)} starts)",
          flush=True)


def target(what, seconds, bound):
    """Holds a figure to a bound."""
    reached = seconds <= bound
    print(f"  -> {what}: {seconds:.2f} s (target <= {bound:g} s): {'reached' if reached else 'MISSED'}", flush=True)
    if not reached:
        missed.append(what)


def beside(xml, *arguments):
    """Seconds of a command, and of the longest start while it runs; starts come one after another."""
    starts, began = [], time.perf_counter()
    with subprocess.Popen(["/usr/sbin/vtpm-guard", *arguments], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as command:
        while command.poll() is None:
            starts.append(prepare("vm0", xml))
        if command.returncode != 0:
            sys.exit(f"{' '.join(arguments)}: status {command.returncode}")
    took = time.perf_counter() - began
    line(" ".join(arguments), starts)
    return took, max(starts, default=0) / 1000


def main():
    """Prints a line for each command."""
    connection = libvirt.open("qemu:///system")
    make_guests(connection)
    xml = "/run/vm0.xml"
    with open(xml, "w", encoding="utf-8") as file:
        file.write(connection.lookupByName("vm0").XMLDesc(0))
    print(f"{GUESTS:,} guests, of {os.path.getsize(xml):,} bytes of XML each")
    print(guard("check", "--all").decode().splitlines()[-1])
    for arguments in (["status"], ["status", "--json"], ["check", "--all"], ["check", "--all", "--json"], ["doctor"],
                      ["provider", "list"], ["key", "list"]):
        runs = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(["/usr/sbin/vtpm-guard", *arguments], check=False, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            runs.append(time.perf_counter() - began)
        target(" ".join(arguments), min(runs), 60)
    print("\nThe start of a guest while a command runs: median, longest")
    line("no command", [prepare("vm0", xml) for _ in range(200)])
    for number, arguments in enumerate((
            ["status"], ["check", "--all"], ["sync"], ["store", "backup", "/run/backup"],
            ["store", "check"], ["provider", "rotate", "nkp-a"], ["provider", "rename", "nkp-a", "nkp-b"],
            ["provider", "rotate", "nkp-b"], ["key", "list"])):
        _, longest = beside(xml, *arguments)
        target(f"longest start beside {' '.join(arguments[:2])} ({number})", longest, 1)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
