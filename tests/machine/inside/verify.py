#!/usr/bin/env python3
"""After a cut: what the guard says of the host, whether every guest starts, and which TPM each one has, read
with the key that `stage` lays out. Prints one JSON document."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from identity import identity

SECRETS = Path("/etc/libvirt/secrets")
STATES = Path("/var/lib/libvirt/swtpm")
AUTOSTART = Path("/etc/libvirt/qemu/autostart")
AUTOSTARTED = Path("/run/libvirt/qemu/autostarted")
UNITS = "libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket"


def run(command):
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return {"status": done.returncode, "said": (done.stdout + done.stderr).strip()}


def left_over():
    """Keys that a start of libvirtd which did not come to its end has left staged."""
    return run(
        "ls -d /run/vtpm-guard/staged/* 2>/dev/null; find /etc/libvirt/secrets -type l"
    )["said"]


def start_and_stop(name):
    run(f"virsh -q destroy {name}")
    started = run(f"virsh -q start {name}")
    run(f"virsh -q destroy {name}")
    return "" if started["status"] == 0 else started["said"][-500:]


def staged_keys(names):
    """The keys of all guests, as `stage` gives them to a libvirtd that is about to start."""
    run(f"systemctl stop {UNITS}")
    AUTOSTARTED.unlink()
    keys, _ = stage(names)
    AUTOSTARTED.touch()
    run(f"vtpm-guard unstage; systemctl start {UNITS}")
    return keys


def stage(names):
    """The keys of these guests while no libvirtd is up, and what `stage` says."""
    AUTOSTART.mkdir(parents=True, exist_ok=True)
    links = [AUTOSTART / f"{name}.xml" for name in names]
    links = [link for link in links if not link.is_symlink()]
    for link in links:
        link.symlink_to(f"/etc/libvirt/qemu/{link.name}")
    said = run("vtpm-guard stage")["said"]
    keys = {}
    for file in SECRETS.glob("*.base64"):
        # Those of libvirt's own secrets, too: guests that are not adopted yet.
        if file.exists():
            keys[file.stem] = base64.b64decode(file.read_text())
    for link in links:
        link.unlink()
    return keys, said


def tpm(xml, directory, keys):
    if not (directory / "tpm2-00.permall").exists():
        return None
    secret = re.search(r"encryption secret='([^']+)'", xml)
    if not secret:
        return identity(directory)
    return identity(directory, keys[secret[1]]) if secret[1] in keys else "no key staged"


def read_tpms(xml, uuids, keys):
    """The TPM of each of these guests that has a state, by name."""
    tpms = {name: tpm(xml[name], STATES / uuids[name] / "tpm2", keys) for name in xml}
    return {name: found for name, found in tpms.items() if found is not None}


def main():
    system = run("systemctl is-system-running --wait")["said"]
    # libvirtd may still be starting guests.
    run("while systemctl -q is-active vtpm-guard-unstage.service; do sleep 0.1; done")
    found = {
        "system": system,
        "failed": run("systemctl --failed --no-legend --plain")["said"],
        "left": left_over(),
        "store": run("vtpm-guard store check"),
        "check": run("vtpm-guard check --all"),
    }
    names = run("virsh list --all --name")["said"].split()
    found["refused"] = {name: why for name in names if (why := start_and_stop(name))}
    xml = {name: run(f"virsh dumpxml --inactive {name}")["said"] for name in names}
    uuids = {name: run(f"virsh domuuid {name}")["said"] for name in names}
    keys = staged_keys(names)
    found["tpms"] = read_tpms(xml, uuids, keys)
    found["guests"] = names
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
