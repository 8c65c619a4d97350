"""`vtpm-guard-open.service`: a host whose provider key is on no disk starts its guests once a key manager answers."""

import guests
import pages
from machine import REPOSITORY, expect
from plays import play

CONFIG = "/etc/vtpm-guard/config.toml"
PLUGIN = "/root/target/packages/plugins"
# A key manager of this host's own: it turns one bit of each byte, unless it is down.
BOX = r"""#!/bin/sh
[ ! -e /root/box-is-down ] || { echo 'the box is down' >&2; exit 1; }
exec tr '\000-\377' '\200-\377\000-\177'
"""
SECTIONS = """[provider]
cache = "boot"
[kms.box]
kind = "exec"
wrap = ["/usr/local/sbin/box"]
unwrap = ["/usr/local/sbin/box"]
"""
NAME = "boxed"


def journal(machine):
    return machine.sh("journalctl -b -q -o cat -u vtpm-guard-open.service").ok()


@play("kms.md: with cache = \"boot\", a guest starts with the host while its key manager answers, and is refused without")
def cache_boot(machine):
    package = next((REPOSITORY / "target/packages/plugins").glob("vtpm-guard-kms-exec_*.deb"))
    machine.sh(f"mkdir -p {PLUGIN}").ok()
    machine.put(f"{PLUGIN}/{package.name}", package)
    machine.sh(f"apt-get install -y {PLUGIN}/*.deb").ok()
    machine.put("/usr/local/sbin/box", BOX, "0755")
    before, ran = machine.sh(f"cat {CONFIG}").ok().stdout, guests.running(machine)
    machine.put(CONFIG, SECTIONS)
    machine.sh("vtpm-guard provider create nkp-box --slot box:one").ok()
    guests.define(machine, NAME)
    machine.sh(f"vtpm-guard key bind {NAME} --provider nkp-box").ok()
    guests.start_and_stop(machine, NAME)
    machine.sh("vtpm-guard doctor").says("vtpm-guard-open.service is not enabled")
    enable, *_ = pages.blocks("kms.md", "Where this host keeps the key")
    machine.sh(enable).ok().says("is here")
    machine.sh(f"virsh -q autostart {NAME}").ok()

    machine.reboot()
    guests.all_run(machine, (NAME,))
    journal(machine).says('was opened by "box:one"')
    machine.sh("systemctl show -p Result vtpm-guard-open.service").ok().says("Result=success")

    machine.sh("touch /root/box-is-down").ok()
    machine.reboot()
    machine.sh("virsh -q list").ok()
    expect(NAME not in guests.running(machine), "a guest runs whose key is not here")
    journal(machine).says("the box is down")
    machine.sh(f"virsh -q start {NAME}").exits(1).says("VG105")

    machine.sh("rm /root/box-is-down && systemctl restart vtpm-guard-open.service").ok()
    guests.start_and_stop(machine, NAME)
    guests.have_their_first_tpm(machine, (NAME,))
    machine.sh(
        f"systemctl disable --now vtpm-guard-open.service; virsh -q undefine {NAME} && vtpm-guard key unbind {NAME} "
        f"&& apt-get purge -y vtpm-guard-kms-exec && rm -r {PLUGIN} /usr/local/sbin/box"
    ).ok()
    machine.put(CONFIG, before)
    machine.sh("vtpm-guard provider delete nkp-box --force").ok()
    # As it was before the reboots.
    for name in ran - guests.running(machine):
        guests.start(machine, name)
