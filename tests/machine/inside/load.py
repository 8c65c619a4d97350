#!/usr/bin/env python3
"""A host that is busy until its power is cut: two workers start and stop guests, make, renew, rotate, adopt
and encrypt keys, back up and remove, for ever. What they do goes to the console, which outlives a cut:

    LOAD TPM GUEST IDENTITY     the guest has this TPM, as it must have ever after
    LOAD FAIL COMMAND           a command failed that nothing interrupted
    LOAD DONE KIND              a step of this kind came to its end, and nothing in it failed
    LOAD KINDS KIND...          the kinds of steps that there are
    LOAD BEGIN STEP             the last of them says what the cut interrupted

usage: load.py [setup]          setup: only the guests that stay
"""

import os
import random
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from identity import identity

PASSPHRASE = "/mnt/backup/passphrase"
STATES = Path("/var/lib/libvirt/swtpm")
GUEST = Path("/root/inside/guest.xml").read_text()
SECRET = """<secret ephemeral='no' private='{private}'><uuid>{uuid}</uuid>
<usage type='vtpm'><name>own-{name}</name></usage></secret>"""
LASTING = [f"m{number}" for number in range(6)]
# More guests than these are not made.
MOST = 16

this_step = threading.local()
# An export that meets a rotation is not recorded, and adopt wants one that is.
exporting = threading.Lock()
console = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_APPEND)


def say(*words):
    os.write(console, ("\nLOAD " + " ".join(words) + "\n").encode())


def run(command, stdin=""):
    say("BEGIN", command)
    done = subprocess.run(command, shell=True, input=stdin, capture_output=True, text=True)
    if done.returncode:
        this_step.failed = True
        say("FAIL", command, repr((done.stdout + done.stderr)[-400:]))
    return done.returncode == 0


def quietly(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout.strip()


def new_name(kind):
    return kind + uuid.uuid4().hex[:6]


def define(name, encryption=""):
    run("virsh -q define /dev/stdin", GUEST.format(name=name, encryption=encryption))


def encrypted(secret=None):
    return f"<encryption secret='{secret or uuid.uuid4()}'/>"


def start_and_stop(name):
    if run(f"virsh -q start {name}"):
        time.sleep(random.random() * 0.5)
    quietly(f"virsh -q destroy {name}")


def say_tpm(name, key=None):
    say("TPM", name, identity(STATES / quietly(f"virsh domuuid {name}") / "tpm2", key))


def export():
    file = f"/mnt/backup/{new_name('nkp-a.')}"
    run(f"vtpm-guard provider export nkp-a --output {file} --passphrase-file {PASSPHRASE} && rm {file}")


def new_guest():
    name = new_name("n")
    define(name, encrypted())
    run(f"vtpm-guard key bind {name} --provider nkp-a")
    start_and_stop(name)


def encrypt():
    name = new_name("p")
    define(name)
    start_and_stop(name)
    say_tpm(name)
    run(f"vtpm-guard encrypt {name} --provider nkp-a")
    start_and_stop(name)


def adopt():
    name, secret, key = new_name("a"), uuid.uuid4(), uuid.uuid4().hex
    private = random.choice(("yes", "no"))
    run("virsh -q secret-define /dev/stdin", SECRET.format(private=private, uuid=secret, name=name))
    Path(f"/run/{name}").write_text(key)
    run(f"virsh -q secret-set-value {secret} --file /run/{name} --plain")
    define(name, encrypted(secret))
    if random.random() < 0.5:
        start_and_stop(name)
        say_tpm(name, key.encode())
    with exporting:
        export()
    run(f"vtpm-guard adopt {name} --provider nkp-a")
    start_and_stop(name)


def rotate():
    with exporting:
        run("vtpm-guard provider rotate nkp-a")
        export()


def back_up():
    file = f"/mnt/backup/{new_name('store.')}"
    run(f"vtpm-guard store backup {file} && rm {file}")


def remove():
    names = [name for name in quietly("virsh list --all --name").split() if name[0] in "npa"]
    if len(names) > 6:
        name = random.choice(names)
        quietly(f"virsh -q destroy {name}")
        run(f"virsh -q undefine {name}")


def work(guests, others):
    while True:
        full = len(quietly("virsh list --all --name").split()) > MOST
        makes = (new_guest, encrypt, adopt)
        step = random.choice([start_and_stop, renew, *(other for other in others if not full or other not in makes)])
        this_step.failed = False
        if step in (start_and_stop, renew):
            step(random.choice(guests))
        else:
            step()
        if not this_step.failed:
            say("DONE", step.__name__)


def renew(name):
    run(f"vtpm-guard key renew {name}")


FOR_ONE, FOR_ANOTHER = (rotate, new_guest, remove), (encrypt, adopt, back_up)


def main():
    for name in LASTING:
        if not quietly(f"virsh domuuid {name}"):
            define(name, encrypted())
            run(f"vtpm-guard key bind {name} --provider nkp-a")
            start_and_stop(name)
    if sys.argv[1:] == ["setup"]:
        say("KINDS", *(step.__name__ for step in (start_and_stop, renew, *FOR_ONE, *FOR_ANOTHER)))
        return
    for guests, others in ((LASTING[:3], FOR_ONE), (LASTING[3:], FOR_ANOTHER)):
        threading.Thread(target=work, args=(guests, others)).start()


if __name__ == "__main__":
    main()
