"""`vtpm-guard-fleet.service`: a host in a fleet, with its shared store on the same machine."""

import json

import guests
from machine import REPOSITORY, wait_for
from plays import play

CONFIG = "/etc/vtpm-guard/config.toml"
PACKAGE = "/root/target/packages/plugins"
ROLES = """
CREATE ROLE vtpm_guard_owner LOGIN PASSWORD 'owner';
CREATE ROLE vtpm_guard_host NOLOGIN;
CREATE DATABASE vtpm_guard OWNER vtpm_guard_owner;
CREATE ROLE machine LOGIN PASSWORD 'machine' IN ROLE vtpm_guard_host;
"""
SECTION = """[fleet]
store = "postgresql://{role}@127.0.0.1/vtpm_guard?sslmode=disable"
password_file = "/root/{role}.password"
interval = "2s"
state = "stopped"
"""
SERVICE = "vtpm-guard-fleet.service"
NAME = "fleeted"


def sql(machine, statement):
    asked = machine.sh("cd / && runuser -u postgres -- psql -qtA -v ON_ERROR_STOP=1 vtpm_guard", statement)
    return asked.ok().stdout.strip()


def has(machine, what):
    """Whether the database has this."""
    return sql(machine, f"SELECT EXISTS (SELECT FROM vtpm_guard.{what})") == "t"


def outbox(machine):
    return json.loads(machine.sh("vtpm-guard fleet status --json").stdout)["outbox"]


@play("fleet.md: the service tells the shared store what happens here, waits while it is down, and comes back with the host")
def service(machine):
    package = next((REPOSITORY / "target/packages/plugins").glob("vtpm-guard-store-postgresql_*.deb"))
    machine.sh(f"mkdir -p {PACKAGE}").ok()
    machine.put(f"{PACKAGE}/{package.name}", package)
    machine.sh(f"apt-get install -y {PACKAGE}/*.deb && systemctl start postgresql.service").ok()
    machine.sh("cd / && runuser -u postgres -- psql -q -v ON_ERROR_STOP=1", ROLES).ok()
    before, ran = machine.sh(f"cat {CONFIG}").ok().stdout, guests.running(machine)
    for role in ("vtpm_guard_owner", "machine"):
        machine.put(f"/root/{role}.password", "owner" if role != "machine" else role, "0600")
        machine.put(f"/root/{role}.toml", SECTION.format(role=role), "0600")
    machine.sh("vtpm-guard --config /root/vtpm_guard_owner.toml fleet init").ok()
    machine.sh(f"cp /root/machine.toml {CONFIG} && vtpm-guard fleet join").ok().says(SERVICE)
    machine.sh(f"systemctl enable --now {SERVICE}").ok()
    guests.bind(machine, NAME)
    wait_for("its key is told", lambda: has(machine, "fact WHERE kind = 'key'"))
    wait_for("its TPM state is told", lambda: has(machine, "tpm_state"))
    machine.sh("journalctl -q -o cat -t vtpm-guard").ok().says("told the fleet")

    # While nobody answers, guests start, and the service waits.
    machine.sh("systemctl stop postgresql.service 'postgresql@*'").ok()
    guests.start_and_stop(machine, NAME)
    machine.sh(f"sleep 5; systemctl is-active {SERVICE}").ok().says("active")
    machine.sh("journalctl -q -o cat -t vtpm-guard").ok().says("no facts were exchanged: ")
    machine.sh("systemctl start postgresql.service").ok()
    wait_for("what waited is told", lambda: outbox(machine) == 0)

    machine.reboot()
    machine.sh("systemctl start postgresql.service").ok()
    guests.start_and_stop(machine, NAME)
    wait_for("it is told after a reboot", lambda: outbox(machine) == 0)
    machine.sh(f"journalctl -b -q -o cat -u {SERVICE}").ok().says_not("not permitted").says_not("core dump")
    guests.have_their_first_tpm(machine, (NAME,))

    machine.sh(
        f"systemctl disable --now {SERVICE}; vtpm-guard fleet leave && systemctl stop postgresql.service 'postgresql@*'; "
        f"virsh -q undefine {NAME} && vtpm-guard key unbind {NAME} && "
        f"apt-get purge -y vtpm-guard-store-postgresql && rm -r {PACKAGE} /root/*.password /root/*.toml"
    ).ok()
    machine.put(CONFIG, before)
    # As it was before the reboot.
    for name in ran - guests.running(machine):
        guests.start(machine, name)
