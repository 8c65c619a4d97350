"""Power cuts under load, on a disk that loses what was not flushed: after each, everything is in order and
each guest has the TPM that it had.

A load is cut many times: at random moments what the disk would have is noted, and looked at after the real cut
(the store, and every TPM, with the key that `stage` lays out). From the real one the machine boots again, and
every guest is started."""

import json
import random
import re
import time

import guests
from machine import HERE, Failed, expect, wait_for

INSIDE = HERE / "inside"
# What the load and the looks say of a TPM as swtpm_setup leaves it (inside/identity.py).
MADE = "[0-9a-f]{16}-[0-9a-f]{16}"
# How long the load runs before the first cut, and how long between cuts, in seconds.
SHORTEST, LONGEST = 2, 8
BETWEEN = 0.05, 1.2
# How many cuts are noted in one load.
NOTED = 19
LOAD = "systemd-run -q --collect --unit=load python3 /root/inside/load.py"


class Cuts:
    def __init__(self):
        # By guest; and whose TPM was seen on the disk as swtpm_setup leaves it.
        self.known, self.made = {}, set()
        self.read = self.unmade = self.cuts = 0

    def prepare(self, machine):
        for script in INSIDE.glob("*.py"):
            machine.put(f"/root/inside/{script.name}", script)
        machine.put("/root/inside/guest.xml", guests.XML)
        machine.sh("python3 /root/inside/load.py setup && sync").ok()

    def one(self, machine):
        """Load, cuts, a boot, and what is there after each."""
        machine.sh(LOAD).ok()
        time.sleep(random.uniform(SHORTEST, LONGEST))
        noted = [self.note(machine, number) for number in range(NOTED)]
        machine.cut()
        begun = said(machine, "BEGIN (.*)")[-2:]
        for name, tpm in said(machine, rf"TPM (\S+) ({MADE})$"):
            self.known.setdefault(name, tpm)
        wrong = []
        for file, interrupted in noted:
            wrong += self.of_cut(interrupted, self.in_tree(machine.look(file, "python3 /root/inside/look.py")))
            file.unlink()
        machine.up()
        found = json.loads(machine.sh("python3 /root/inside/verify.py", seconds=600).ok().stdout)
        wrong += self.of_cut(begun, self.in_machine(found))
        expect(not wrong, "\n".join(wrong))

    def note(self, machine, number):
        """A cut of which the load does not know, and what it would interrupt."""
        time.sleep(random.uniform(*BETWEEN))
        file = machine.directory / f"cut-{number}"
        machine.note_cut(file)
        return file, said(machine, "BEGIN (.*)")[-2:]

    @staticmethod
    def of_cut(begun, wrong):
        return [f"the cut interrupted: {begun}", *wrong] if wrong else []

    def in_tree(self, output):
        if output.status:
            return [str(output)]
        found = json.loads(output.stdout)
        wrong = self.tpms(found)
        if found["store"]["status"] not in (0, 3):
            wrong.append(f"store: {found['store']['said']}")
        if found["left"]:
            wrong.append(f"left over: {found['left']}")
        return [*wrong, f"stage: {found['stage']}"] if wrong else []

    def in_machine(self, found):
        wrong = []
        if found["system"] != "running":
            wrong.append(f"the system is {found['system']}: {found['failed']}")
        if found["left"]:
            wrong.append(f"left over: {found['left']}")
        for command in ("store", "check"):
            # 3: it would start after repairs that the start makes.
            if found[command]["status"] not in (0, 3):
                wrong.append(f"{command}: {found[command]['said']}")
        wrong += [f"{name} does not start: {why}" for name, why in found["refused"].items()]
        return wrong + self.tpms(found)

    def tpms(self, found):
        self.cuts += 1
        lost = (self.made & set(found["guests"])) - set(found["tpms"])
        wrong = [f"{name} has no TPM state any more" for name in sorted(lost)]
        for name, tpm in found["tpms"].items():
            self.read += 1
            if re.fullmatch(MADE, tpm):
                self.made.add(name)
                if self.known.setdefault(name, tpm) != tpm:
                    wrong.append(f"{name} has another TPM: {tpm}, not {self.known[name]}")
            elif name not in self.made and is_unmade(name, tpm, found.get("stage", "")):
                self.unmade += 1
            else:
                wrong.append(f"{name}: its TPM cannot be read: {tpm}")
        return wrong

    def enough(self, machine):
        """TPMs were read; and what was cut is a load that works: goes on until every kind has succeeded."""
        print(f"{self.read} TPMs were read after {self.cuts} cuts; {self.unmade} were only being made", flush=True)
        expect(self.read > 0, "no TPM was read")
        kinds = set(said(machine, "KINDS (.*)")[-1].split())
        machine.sh(LOAD).ok()
        try:
            wait_for(f"{kinds} succeed", lambda: kinds <= set(said(machine, "DONE (.*)")), 180)
        except Failed:
            missing = kinds - set(said(machine, "DONE (.*)"))
            raise Failed("\n".join([f"never succeeded: {missing}", *said(machine, "FAIL (.*)")[-5:]])) from None
        finally:
            machine.sh("systemctl stop load").ok()


def is_unmade(name, tpm, stage):
    """Whether the cut met the first start of a guest: swtpm_setup was at its TPM, or what it wrote was not flushed."""
    is_torn = tpm == "no key staged" and re.search(rf"^{name} .*VG207", stage, re.MULTILINE)
    return tpm.endswith("-unmade") or "Invalid magic" in tpm or is_torn


def said(machine, pattern):
    """What the load has said on the console since the first boot."""
    log = (machine.directory / "console").read_text(errors="replace")
    return re.findall(f"^LOAD {pattern}", log, re.MULTILINE)


def plays(number):
    cuts = Cuts()
    loads = -(-number // (NOTED + 1))
    return [
        ("guests for the load", cuts.prepare),
        *(
            (f"load {count} of {loads}: after each of {NOTED + 1} cuts all guests have their TPMs", cuts.one)
            for count in range(1, loads + 1)
        ),
        ("TPMs were read and compared, and each kind of load has succeeded", cuts.enough),
    ]
