"""Power cuts under load, on a disk that loses what was not flushed: after each, everything is in order and
each guest has the TPM that it had."""

import json
import random
import re
import time

import guests
from machine import HERE, expect

INSIDE = HERE / "inside"
# How long the load runs before a cut, in seconds.
SHORTEST, LONGEST = 2, 14


class Cuts:
    def __init__(self):
        self.known = {}
        self.read = 0

    def prepare(self, machine):
        for script in INSIDE.glob("*.py"):
            machine.put(f"/root/inside/{script.name}", script)
        machine.put("/root/inside/guest.xml", guests.XML)
        machine.sh("python3 /root/inside/load.py setup && sync").ok()

    def one(self, machine):
        """Load, cut, boot, verify."""
        machine.sh("systemd-run -q --collect python3 /root/inside/load.py").ok()
        time.sleep(random.uniform(SHORTEST, LONGEST))
        machine.cut()
        log = (machine.directory / "console").read_text(errors="replace")
        begun = re.findall(r"^LOAD BEGIN (.*)", log, re.MULTILINE)[-2:]
        for name, tpm in re.findall(r"^LOAD TPM (\S+) ([0-9a-f]{16})$", log, re.MULTILINE):
            self.known.setdefault(name, tpm)
        machine.up()
        found = json.loads(machine.sh("python3 /root/inside/verify.py", seconds=600).ok().stdout)
        wrong = self.wrong(found)
        expect(not wrong, "\n".join([f"the cut interrupted: {begun}", *wrong]))

    def wrong(self, found):
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
        for name, tpm in found["tpms"].items():
            if not re.fullmatch("[0-9a-f]{16}", tpm):
                wrong.append(f"{name}: its TPM cannot be read: {tpm}")
            elif self.known.setdefault(name, tpm) != tpm:
                wrong.append(f"{name} has another TPM")
            self.read += 1
        return wrong

    def enough(self, _):
        expect(self.read > 0, "no TPM was read")


def plays(number):
    cuts = Cuts()
    return [
        ("guests for the load", cuts.prepare),
        *((f"cut {count} of {number}: all guests start with their TPMs", cuts.one) for count in range(1, number + 1)),
        ("TPMs were read and compared", cuts.enough),
    ]
