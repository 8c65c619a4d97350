"""What `benches/fleet.py` measures with: a PostgreSQL, hosts that are state directories, and processes."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

from run_once import ENVIRONMENT

HERE = os.path.dirname(os.path.abspath(__file__))
SERVICE = f"{HERE}/../tests/kms/services/postgresql"
TICKS = os.sysconf("SC_CLK_TCK")

missed = []


def key_manager(name):
    """The section of a key manager that turns one bit of each byte. Hosts without it cannot open what it wraps, and hear
    of nothing that is under that."""
    turn = "[\"/usr/bin/tr\", '\\000-\\377', '\\200-\\377\\000-\\177']"
    return f'[kms.{name}]\nkind = "exec"\nwrap = {turn}\nunwrap = {turn}\n'


def section(title):
    print(f"\n{title}", flush=True)


def line(what, value):
    print(f"  {what:<64} {value}", flush=True)


def aim(what, value, bound, unit):
    """Prints a figure and the aim that it is held to."""
    reached = value <= bound
    line(what, f"{value:10.2f} {unit}  (aim <= {bound:g} {unit}): {'reached' if reached else 'MISSED'}")
    if not reached:
        missed.append(what)


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def run(*argv, statuses=(0,)):
    """Runs a command, which ends with one of these statuses, and returns its output."""
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode not in statuses:
        sys.exit(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def timed(action, *arguments):
    """Seconds, and what came back."""
    begin = time.perf_counter()
    answer = action(*arguments)
    return time.perf_counter() - begin, answer


class Database:
    """A real PostgreSQL on loopback, with TLS and client certificates, that writes as in production."""

    def __init__(self, place):
        self.dir = place
        run(SERVICE, "install")
        run(SERVICE, "up", place)
        with open(f"{place}/place", encoding="ascii") as file:
            self.socket = file.read().strip()
        # Tests run without these.
        self.sql("ALTER SYSTEM SET fsync = on")
        self.sql("ALTER SYSTEM SET autovacuum = on")
        # It would compile every query, as where statistics are old: sessions of hosts ask it not to.
        self.sql("ALTER SYSTEM SET jit_above_cost = 1")
        self.sql("SELECT pg_reload_conf()")
        with open(f"{place}/pid", encoding="ascii") as file:
            self.postmaster = int(file.read().split()[0])
        with open(f"{place}/config.toml", encoding="ascii") as file:
            self.section = file.read()

    def sql(self, statement):
        command = ["psql", "-qAtX", "-h", self.socket, "-p", "5480", "-d", "vtpm_guard", "-c", statement]
        return run("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command).strip()

    def owner_section(self):
        """The configuration of the database's owner."""
        return (
            '[fleet]\nstore = "postgresql://vtpm_guard_owner@127.0.0.1:5480/vtpm_guard"\n'
            f'ca = "{self.dir}/tls/ca.pem"\npassword_file = "{self.dir}/vtpm_guard_owner"\n'
        )

    def freeze(self):
        run(SERVICE, "freeze", self.dir)

    def thaw(self):
        run(SERVICE, "thaw", self.dir)

    def down(self):
        run(SERVICE, "down", self.dir)

    def cpu(self):
        """Seconds of CPU that the server and all that serve connections, or did, have used."""
        used = 0
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                    fields = file.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(entry) == self.postmaster:
                used += sum(int(field) for field in fields[11:15])
            elif int(fields[1]) == self.postmaster:
                used += int(fields[11]) + int(fields[12])
        return used / TICKS

    def connections(self):
        return int(self.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'host'"))

    def transactions(self):
        """How many were committed so far, as the server counts them: sessions tell within a second of being idle."""
        return int(self.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = 'vtpm_guard'"))


class Host:
    """A state directory with a configuration of its own."""

    def __init__(self, parent, name, configuration):
        self.name, self.dir, self.config = name, f"{parent}/{name}", f"{parent}/{name}.toml"
        with open(self.config, "w", encoding="ascii") as file:
            file.write(configuration)

    def argv(self, *arguments):
        return ["/usr/sbin/vtpm-guard", "--config", self.config, "--state-dir", self.dir, *arguments]

    def guard(self, *arguments, statuses=(0,)):
        return run(*self.argv(*arguments), statuses=statuses)

    def json(self, *arguments, statuses=(0,)):
        return json.loads(self.guard(*arguments, "--json", statuses=statuses))

    def copy_of(self, other):
        shutil.copytree(other.dir, self.dir)
        return self


def at_once(commands, width):
    """Runs commands, so many at a time; each must succeed. Returns the seconds that each took."""
    running, took, left = {}, [], list(reversed(commands))
    while left or running:
        while left and len(running) < width:
            argv = left.pop()
            process = subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            running[process.pid] = (process, argv, time.perf_counter())
        pid, status = os.wait()
        process, argv, begin = running.pop(pid)
        took.append(time.perf_counter() - begin)
        if status != 0:
            sys.exit(f"{' '.join(argv)}: {process.stderr.read().decode()}")
        process.stderr.close()
        process.returncode = 0
    return took


def end(processes):
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()


def median(values):
    return statistics.median(values)
