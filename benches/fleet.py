#!/usr/bin/python3
"""Measures what a fleet with a shared store costs, with a real PostgreSQL, inside a private libvirt host
(`./dev bench fleet`). Exits with 1 if an aim is not reached.

usage: fleet.py FILL-STORE PROGRAMS [HOSTS]: the built benches/fill_store.rs, the directory of the other programs, and
how many hosts are simulated (500)
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid

import fleet_site as site
from fleet_site import aim, line, median, percentile, run, section, timed
from run_once import prepare

FILL_STORE, PROGRAMS = sys.argv[1:3]
HOSTS = int(sys.argv[3]) if len(sys.argv) > 3 else 500
ROWS = 10_000
GUESTS = 20
INTERVAL = 60
STATE = "/var/lib/vtpm-guard"
CONFIG = "/etc/vtpm-guard/config.toml"
FLEET = ("fleet", "fleet_outbox", "fleet_fact", "fleet_pending", "fleet_scope", "fleet_placement", "fleet_state")
SWTPM = "/var/lib/libvirt/swtpm"
STORE = f"{STATE}/store.db"
SECRET = str(uuid.uuid4())
BOX = site.key_manager("box")


def guard(*arguments, statuses=(0,)):
    return run("/usr/sbin/vtpm-guard", *arguments, statuses=statuses)


def configure(text):
    with open(CONFIG, "w", encoding="ascii") as file:
        file.write(text)


def define(name, secret):
    """Defines a guest with an encrypted vTPM."""
    path = f"/run/{name}.xml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>"
            "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><tpm model='tpm-crb'>"
            f"<backend type='emulator' version='2.0'><encryption secret='{secret}'/></backend>"
            "</tpm></devices></domain>"
        )
    run("virsh", "define", path)
    with open(path, "w", encoding="utf-8") as file:
        file.write(run("virsh", "dumpxml", name))
    return path


def before_start(path):
    """Gives this host a store as it was, and libvirt no secret: nothing is there of the start before."""
    subprocess.run(["virsh", "secret-undefine", SECRET], env=site.ENVIRONMENT, capture_output=True)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(STORE + suffix):
            os.unlink(STORE + suffix)
    with open(path, "rb") as old, open(STORE, "wb") as new:
        new.write(old.read())
        # Or else the start would wait until all of it is on the disk.
        os.fsync(new.fileno())


def one_start(xml, store, configuration, guest="vm0"):
    before_start(store)
    configure(configuration)
    return prepare(guest, xml)


def warm_starts(database, xml, alone, member, rounds=100):
    """A start that asks nobody: without a fleet, in one, and in one whose database hangs or is gone."""
    fleet = database.section + BOX
    off, on = [], []
    for _ in range(rounds):
        off.append(one_start(xml, alone, BOX))
        on.append(one_start(xml, member, fleet))
    database.freeze()
    frozen, beside = [], []
    for _ in range(rounds):
        beside.append(one_start(xml, alone, BOX))
        frozen.append(one_start(xml, member, fleet))
    database.thaw()
    # Nobody listens there, so this is what a host sees whose server is gone.
    gone_fleet = fleet.replace(":5480", ":5499")
    gone, beside_gone = [], []
    for _ in range(rounds):
        beside_gone.append(one_start(xml, alone, BOX))
        gone.append(one_start(xml, member, gone_fleet))
    section("A start that has all that it needs (medians)")
    line("without a fleet", f"{median(off):10.2f} ms")
    for what, with_it, without in (
        ("in a fleet", on, off),
        ("in a fleet, its database stopped with SIGSTOP", frozen, beside),
        ("in a fleet, its database gone", gone, beside_gone),
    ):
        line(what, f"{median(with_it):10.2f} ms")
        aim("  more than without a fleet", median(with_it) - median(without), 0.3, "ms")


def misses(database, xml, no_key, member, rounds=200):
    """A start whose key is not here: the whole start, and what it takes more than one that has it."""
    fleet = database.section + BOX
    with_key, took = [], []
    for _ in range(rounds):
        with_key.append(one_start(xml, member, fleet))
        took.append(one_start(xml, no_key, fleet))
    more = [miss - median(with_key) for miss in took]
    section(f"A start that asks the shared store for its key ({rounds} starts)")
    line("the whole start, median", f"{median(took):10.2f} ms")
    line("  more than with the key here, median", f"{median(more):10.2f} ms")
    aim("  more than with the key here, p99", percentile(more, 0.99), 50, "ms")
    aim("the longest whole start", max(took), 2000, "ms")


def silent(database, xml, no_key):
    """What a start waits for that asks a database that hangs."""
    database.freeze()
    before_start(no_key)
    configure(database.section + BOX)
    argv = ["/usr/sbin/vtpm-guard-hook", "vm0", "prepare", "begin", "-"]
    with open(xml, "rb") as stdin:
        took, done = timed(lambda: subprocess.run(argv, stdin=stdin, env=site.ENVIRONMENT, capture_output=True))
    database.thaw()
    print("    " + done.stderr.decode().strip()[:100])
    aim("refused, for the database hangs (fleet.ask is 2 s)", took, 2.5, "s")


def many_rows(database, place):
    """10,000 keys: pushed by one host, pulled by another, and re-wrapped."""
    section(f"{ROWS:,} keys")
    fleet = database.section + site.key_manager("many")
    first, second = site.Host(place, "first", fleet), site.Host(place, "second", fleet)
    first.guard("provider", "create", "nkp-many", "--slot", "many:one")
    run(FILL_STORE, first.dir, str(ROWS))
    took, joined = timed(first.json, "fleet", "join", "--name", "first")
    assert joined["pushed"] >= ROWS, joined
    line("`fleet join` of the host that has them: pushed", f"{took:10.2f} s")
    took, joined = timed(second.json, "fleet", "join", "--name", "second")
    assert joined["key_refs"] == ROWS, joined
    aim("`fleet join` of a host that learns them: pulled, proven, kept", took, 1, "s")
    second.guard("provider", "accept", "nkp-many")
    took, _ = timed(second.guard, "sync", "--compare")
    line("`sync --compare` of a host that knows them", f"{took:10.2f} s")
    took = [timed(second.guard, "sync")[0] for _ in range(20)]
    line("`sync` with nothing new, median", f"{median(took) * 1000:10.1f} ms")
    rotate(first, second)
    line("the database: facts", f"{database.sql('SELECT count(*) FROM vtpm_guard.fact'):>10}")
    size = "SELECT pg_total_relation_size('vtpm_guard.fact') / count(*) FROM vtpm_guard.fact"
    line("  bytes of each, with its indexes", f"{database.sql(size):>10}")


def rotate(first, second):
    # It announces the next key, and gives up waiting at once. The other host opens it.
    first.guard("provider", "rotate", "nkp-many", "--wait", "0s", statuses=(1, 4))
    second.guard("sync")
    took, _ = timed(first.guard, "provider", "rotate", "nkp-many")
    aim(f"`provider rotate`: {ROWS:,} keys re-wrapped and told to the fleet", took, 5, "s")
    syncs, changed, total = 0, 0, 0
    while changed < ROWS and syncs < 5:
        took, synced = timed(second.json, "sync")
        syncs, total, changed = syncs + 1, total + took, changed + synced["fleet"]["changed"]
    line("  another host has them all re-wrapped, in its next exchanges", f"{total:10.2f} s")
    aim("  after so many exchanges (one in each interval)", syncs, 2, "exchanges")
    if changed < ROWS:
        sys.exit(f"{changed} of {ROWS} rows have the new key on the other host")


def many_hosts(database, place):
    """Hosts that exchange facts every 60 seconds, as processes and with connections that are held."""
    section(f"{HOSTS} hosts, each exchanging facts every {INTERVAL} s")
    fleet = database.section + site.key_manager("fleet")
    base = site.Host(place, "base", fleet)
    base.guard("provider", "create", "nkp-fleet", "--slot", "fleet:one")
    run(FILL_STORE, base.dir, str(GUESTS))
    hosts = [site.Host(place, f"host{number}", fleet).copy_of(base) for number in range(HOSTS)]
    took, _ = timed(site.at_once, [host.argv("fleet", "join", "--name", host.name) for host in hosts], 4)
    line("all have joined, 4 at a time", f"{took:10.1f} s")
    syncs = [host.argv("sync") for host in hosts]
    site.at_once(syncs, 4)
    before, began = database.cpu(), time.perf_counter()
    each = site.at_once(syncs, 4)
    used, took = (database.cpu() - before) / HOSTS, time.perf_counter() - began
    line("`sync` as a process of its own, 4 at a time: all", f"{took:10.1f} s")
    line("  each, median", f"{median(each) * 1000:10.1f} ms")
    line("  CPU of PostgreSQL, each", f"{used * 1000:10.2f} ms")
    aim("  CPU of PostgreSQL, of one core", used * HOSTS / INTERVAL * 100, 10, "%")
    held_connections(database, hosts)


def held_connections(database, hosts):
    quiet = {"env": site.ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    followers = []
    try:
        for host in hosts:
            followers.append(subprocess.Popen(host.argv("sync", "--follow"), **quiet))
            time.sleep(INTERVAL / len(hosts))
        # On a busy machine they come late.
        patience = time.monotonic() + 10 * INTERVAL
        while database.connections() < len(hosts) and time.monotonic() < patience:
            time.sleep(1)
        line("connections held by `sync --follow`", f"{database.connections():10}")
        # The first exchange of each is over, and their second ones are spread over an interval.
        time.sleep(10)
        before, asked, began = database.cpu(), database.transactions(), time.perf_counter()
        time.sleep(INTERVAL)
        used, took = database.cpu() - before, time.perf_counter() - began
        asked = database.transactions() - asked
        line("  transactions meanwhile, of each", f"{asked / len(hosts):10.1f}")
        if asked < len(hosts):
            sys.exit("not every host has exchanged facts")
        line("  CPU of PostgreSQL, each exchange", f"{used / len(hosts) * 1000:10.2f} ms")
        aim("  CPU of PostgreSQL, of one core", used / took * 100, 10, "%")
        if any(follower.poll() is not None for follower in followers):
            sys.exit("a `sync --follow` has ended")
    finally:
        site.end(followers)


def reinstalled(database):
    """A host whose disk is new: its guests start again from what the fleet has."""
    section(f"A reinstalled host with {GUESTS} guests")
    shutil.rmtree(SWTPM)
    for entry in os.listdir(STATE):
        path = f"{STATE}/{entry}"
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    configure(database.section + 'state = "stopped"\n' + BOX)
    joined, _ = timed(guard, "fleet", "join", "--name", "reinstalled")
    accepted, _ = timed(guard, "provider", "accept", "nkp-a")
    checked, answer = timed(lambda: guard("check", "--all", statuses=(0, 3)))
    line("`fleet join`", f"{joined:10.2f} s")
    line("`provider accept`", f"{accepted:10.2f} s")
    line("`check --all`: every guest would start, keys and TPM states proven", f"{checked:10.2f} s")
    aim("all of that", joined + accepted + checked, 10, "s")
    print("    " + answer.strip().splitlines()[-1])
    run("virsh", "start", f"vm{GUESTS - 1}")
    run("virsh", "destroy", f"vm{GUESTS - 1}")


def with_guests(database, place):
    """What concerns real guests: this host has some, and is in the fleet."""
    fleet = database.section + 'state = "stopped"\n' + BOX
    os.makedirs(os.path.dirname(CONFIG), exist_ok=True)
    configure(BOX)
    guard("provider", "create", "nkp-a", "--default", "--slot", "box:one")
    paths = [define(f"vm{number}", SECRET if number == 0 else uuid.uuid4()) for number in range(GUESTS)]
    guard("key", "bind", "vm0")
    run("virsh", "start", "vm0")
    run("virsh", "destroy", "vm0")
    alone, member, no_key = (f"{place}/{name}.db" for name in ("alone", "member", "no-key"))
    for number in range(1, GUESTS):
        guard("key", "bind", f"vm{number}")
    configure(fleet)
    guard("fleet", "join", "--name", "guests")
    before = sizes(database)
    for number in range(GUESTS):
        run("virsh", "start", f"vm{number}")
        run("virsh", "destroy", f"vm{number}")
    guard("sync")
    section(f"The first start and stop of a guest, in the database (of {GUESTS})")
    for what, now, old in zip(("facts", "bytes of facts", "bytes of TPM states"), sizes(database), before):
        line(what, f"{(now - old) / GUESTS:10.0f}")
    copy_store(member)
    shutil.copyfile(member, alone)
    change(alone, *(f"DELETE FROM {table}" for table in FLEET))
    shutil.copyfile(member, no_key)
    change(no_key, "DELETE FROM key_ref", "DELETE FROM fleet_fact WHERE kind IN ('key', 'status')")
    return paths[0], alone, member, no_key


def sizes(database):
    """How many facts there are, and the bytes of them and of TPM states, without indexes."""
    facts = "SELECT count(*) || ' ' || sum(pg_column_size(fact.*)) FROM vtpm_guard.fact"
    states = "SELECT coalesce(sum(pg_column_size(state.*)), 0) FROM vtpm_guard.tpm_state AS state"
    return [int(word) for word in f"{database.sql(facts)} {database.sql(states)}".split()]


def copy_store(path):
    """A copy with everything in one file."""
    with sqlite3.connect(STORE) as store:
        store.execute("VACUUM INTO ?", (path,))


def change(path, *statements):
    """Makes another host's store of it: one in no fleet, or one that has not heard of the guests."""
    with sqlite3.connect(path) as store:
        for statement in statements:
            store.execute(statement)


def main():
    run("ip", "link", "set", "lo", "up")
    # Where programs are beside vtpm-guard, it takes them from there.
    for program in ("store-postgresql", "kms-exec"):
        run("install", "-m", "755", f"{PROGRAMS}/{program}", f"/usr/sbin/{program}")
    place = tempfile.mkdtemp(prefix="vtpm-guard-bench.")
    database = site.Database(f"{place}/postgresql")
    try:
        owner = site.Host(place, "owner", database.owner_section())
        owner.guard("fleet", "init")
        many_rows(database, place)
        xml, alone, member, no_key = with_guests(database, place)
        warm_starts(database, xml, alone, member)
        misses(database, xml, no_key, member)
        silent(database, xml, no_key)
        reinstalled(database)
        many_hosts(database, place)
    finally:
        database.down()
        shutil.rmtree(place)
    sys.exit(1 if site.missed else 0)


main()
