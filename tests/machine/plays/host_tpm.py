"""The VM's own TPM: provider keys sealed to it, and what helps when it was cleared. AppArmor in force."""

import subprocess

import guests
import pages
from machine import HERE, expect
from plays import boots, play

PLAYED_BY_THE_PAGE = "vm1"


@play("the provider's key is sealed to the host's TPM, and the check opens it in its sandbox", on=("vm",))
def sealed(machine):
    machine.sh("vtpm-guard provider show nkp-a").ok().says("host+tpm2")
    machine.sh("virsh -q undefine bad && systemctl start vtpm-guard-check.service").ok()


@play("AppArmor confines libvirtd, swtpm and QEMU, and has denied nothing in any of the boots", on=("vm",))
def apparmor(machine):
    guests.stop_all(machine)
    guests.start(machine, "late")
    for program in ("libvirtd", "swtpm", "qemu-system-x86_64"):
        found = machine.sh(f"for pid in $(pidof {program}); do cat /proc/$pid/attr/current; done").ok()
        profiles = found.stdout.replace("\0", "").split("\n")[:-1]
        confined = [profile for profile in profiles if profile.endswith("(enforce)")]
        expect(profiles and profiles == confined, f"{program} is not confined: {profiles}")
    # libvirt loads a profile for each guest: the kernel's words of it show that a denial would be seen, too.
    journal = "journalctl --no-pager -q -o cat | grep"
    machine.sh(f"{journal} 'apparmor=.STATUS.*name=.libvirt-'").ok()
    denied = machine.sh(f"{journal} 'apparmor=.DENIED' || true").ok()
    expect(denied.stdout == "", f"AppArmor has denied: {denied.stdout}")


@play("the host's TPM was cleared: guests are refused with VG104, and recovery.md brings them back", on=("vm",))
def cleared(machine):
    machine.sh(
        "vtpm-guard provider export nkp-a --output /mnt/backup/nkp-a.2 --passphrase-file /mnt/backup/passphrase"
    ).ok()
    # libvirt-guests would wait five minutes for guests that have no system to shut down.
    guests.stop_all(machine)
    machine.down()
    subprocess.run([HERE / "vm", "new-tpm", machine.directory], check=True)
    machine.up()
    guests.nothing_is_left_of_staging(machine)
    machine.sh("vtpm-guard check late").exits(1).says("VG104")
    machine.sh("vtpm-guard doctor").exits(1).says("nkp-a")
    # The page's guest is another one, and its file has the name of the first export.
    machine.sh("mv /mnt/backup/nkp-a.2 /mnt/backup/nkp-a.recovery").ok()
    page = "".join(pages.blocks("recovery.md", "A provider is lost"))
    machine.sh(page.replace(PLAYED_BY_THE_PAGE, "late")).ok()
    for name in set(boots.GOOD) - guests.running(machine):
        guests.start(machine, name)
    guests.have_their_first_tpm(machine, boots.GOOD)
    machine.sh("vtpm-guard provider show nkp-a").ok().says("host+tpm2")
