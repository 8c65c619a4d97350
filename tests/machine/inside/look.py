#!/usr/bin/env python3
"""What is on a disk after a cut, without a boot: whether the store is whole, and which TPM each guest has, read
with the key that `stage` lays out. Prints one JSON document."""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from verify import left_over, read_tpms, run, stage

DEFINITIONS = Path("/etc/libvirt/qemu")


def main():
    found = {"left": left_over(), "store": run("vtpm-guard store check")}
    xml = {file.stem: file.read_text() for file in DEFINITIONS.glob("*.xml")}
    found["guests"] = list(xml)
    keys, found["stage"] = stage(found["guests"])
    uuids = {name: re.search("<uuid>(.*)</uuid>", xml[name])[1] for name in xml}
    found["tpms"] = read_tpms(xml, uuids, keys)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
