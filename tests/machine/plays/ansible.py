"""The Ansible role on a host with systemd: what `./dev fleet-test ansible` plays, which has none, and the units."""

import base64
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import guests
from machine import HERE, REPOSITORY, Failed, expect
from plays import play
from plays.setting_up import PACKAGES

ROLE = REPOSITORY / "packaging" / "ansible"
METRICS = "/var/lib/node-exporter/vtpm-guard.prom"


def put_into_vaults(machine, place):
    """What the administrator has: a recovery file and its passphrase, each in a vault."""
    recovery = machine.sh("base64 /mnt/backup/nkp-a.recovery").ok().stdout
    (place / "nkp-a.recovery").write_bytes(base64.b64decode(recovery))
    passphrase = machine.sh("cat /mnt/backup/passphrase").ok().stdout.strip()
    (place / "vault.json").write_text(json.dumps({"vtpm_guard_recovery_passphrase": passphrase}))
    (place / "password").write_text("the password of the vaults\n")
    files = [place / "nkp-a.recovery", place / "vault.json"]
    subprocess.run(["ansible-vault", "encrypt", "--vault-password-file", place / "password", *files],
                   check=True, capture_output=True)


def run(machine, place):
    """Plays the role. Returns how many tasks have changed something."""
    variables = {
        "vtpm_guard_package": str(next(PACKAGES.glob("*.deb"))),
        "vtpm_guard_config": {"policy": {"auto_bind": "nkp-a"}},
        "vtpm_guard_recovery_file": str(place / "nkp-a.recovery"),
        "vtpm_guard_adopt_with": "nkp-a",
        "vtpm_guard_metrics_file": METRICS,
        # root itself is there, and no sudo.
        "ansible_become": False,
        "ansible_ssh_executable": str(HERE / "as-ssh"),
        "ansible_ssh_transfer_method": "piped",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    (place / "variables.json").write_text(json.dumps(variables))
    (place / "hosts").write_text("[kvm]\nmachine\n")
    own = {"ANSIBLE_ROLES_PATH": str(ROLE / "roles"), "ANSIBLE_LOCAL_TEMP": str(place / "local"),
           "ANSIBLE_HOME": str(place / "home"), "ANSIBLE_SSH_ARGS": "", "MACHINE": str(machine.directory),
           "LC_ALL": "C.UTF-8"}
    command = ["ansible-playbook", "-i", place / "hosts", "--vault-password-file", place / "password"]
    command += ["-e", f"@{place}/variables.json", "-e", f"@{place}/vault.json", ROLE / "playbook.yml"]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    counts = re.search(r"changed=(\d+).* failed=0 ", done.stdout)
    if done.returncode or not counts:
        raise Failed(f"ansible-playbook: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return int(counts[1])


@play("the Ansible role on a host without the guard: installed, timer enabled, keys adopted; again: no change")
def role(machine):
    guests.stop_all(machine)
    machine.sh("for guest in $(virsh list --all --name); do virsh -q undefine $guest; done").ok()
    machine.sh("apt-get purge -y vtpm-guard && rm -r /var/lib/vtpm-guard").ok()
    guests.define_with_secret(machine, "old", "no")
    guests.start_and_stop(machine, "old")
    machine.sh(f"mkdir -p {Path(METRICS).parent}").ok()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        put_into_vaults(machine, place)
        expect(run(machine, place) > 3, "it has changed next to nothing")
        machine.sh("systemctl is-enabled vtpm-guard-check.timer && systemctl is-active vtpm-guard-check.timer").ok()
        shown = machine.sh("systemctl show -p ExecStart -p NeedDaemonReload vtpm-guard-check.service").ok()
        shown.says(f"--metrics {METRICS}").says("NeedDaemonReload=no")
        machine.sh(f"systemctl start vtpm-guard-check.service && grep -q '^vtpm_guard_' {METRICS}").ok()
        guests.nothing_is_left_of_staging(machine)
        guests.start_and_stop(machine, "old")
        guests.define(machine, "new")
        guests.start_and_stop(machine, "new")
        changed = run(machine, place)
        expect(changed == 0, f"it has changed {changed} things once more")
    guests.have_their_first_tpm(machine, ("old", "new"))
