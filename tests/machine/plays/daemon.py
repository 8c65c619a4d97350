"""libvirtd ends, is started by its socket, restarted, killed and installed again."""

import guests
from machine import expect, wait_for
from plays import play

IDLE = "/etc/systemd/system/libvirtd.service.d/10-idle.conf"


def is_active(machine):
    return machine.sh("systemctl is-active libvirtd").stdout.strip() == "active"


@play("libvirtd ends when idle, and its socket starts it for the next start of a guest")
def socket(machine):
    machine.sh("for guest in win11 mail files late bad; do virsh -q autostart --disable $guest; done").ok()
    guests.stop_all(machine)
    machine.put(IDLE, '[Service]\nEnvironment="LIBVIRTD_ARGS=--timeout 5"\n')
    machine.sh("systemctl daemon-reload && systemctl restart libvirtd").ok()
    for lifetime in ("start", "run", "keep"):
        machine.put("/etc/vtpm-guard/config.toml", f'[secret]\nlifetime = "{lifetime}"\n')
        wait_for("libvirtd ends", lambda: not is_active(machine), 30)
        guests.start_and_stop(machine, "late")
        secrets = machine.sh("virsh secret-list | grep -c vtpm-guard || true").stdout.strip()
        expected = "1" if lifetime == "keep" else "0"
        expect(secrets == expected, f"lifetime {lifetime}: {secrets} secrets")
    machine.sh(f"rm {IDLE} && : >/etc/vtpm-guard/config.toml").ok()
    machine.sh("systemctl daemon-reload && systemctl restart libvirtd").ok()


@play("libvirtd restarted and killed under running guests: they run on, stop and start again")
def restarted(machine):
    names = {"win11", "late"}
    for name in names:
        guests.start(machine, name)
    for end in ("systemctl restart libvirtd", "kill -9 $(pidof libvirtd)"):
        machine.sh(end).ok()
        guests.all_run(machine, names)
        for name in names:
            guests.stop(machine, name)
            guests.start(machine, name)
        guests.unstaged(machine)


@play("the nightly timer runs the check; a guest that would be refused fails its unit, one with its TPM below /var/tmp does not")
def nightly(machine):
    machine.put(
        "/etc/systemd/system/vtpm-guard-check.timer.d/10-soon.conf",
        "[Timer]\nOnCalendar=\nOnActiveSec=1s\nAccuracySec=100ms\nRandomizedDelaySec=0\n",
    )
    machine.sh("systemctl daemon-reload && systemctl enable vtpm-guard-check.timer").ok()

    def result():
        shown = machine.sh("systemctl show --value -p Result -p ExecMainStatus vtpm-guard-check.service")
        return shown.ok().stdout.split()

    machine.sh("systemctl restart vtpm-guard-check.timer").ok()
    wait_for("the check fails", lambda: "exit-code" in result(), 30)
    machine.sh("systemctl --failed --no-legend --plain").ok().says("vtpm-guard-check.service")
    machine.sh("virsh -q undefine bad && systemctl reset-failed vtpm-guard-check.service").ok()
    guests.bind(machine, "below", state="/var/tmp/below")
    machine.sh("systemctl start vtpm-guard-check.service").ok()
    machine.sh("rm -r /etc/systemd/system/vtpm-guard-check.timer.d && systemctl daemon-reload").ok()


@play("libvirt installed again under running guests: they run on, and the hook stays")
def libvirt_reinstalled(machine):
    machine.sh("apt-get install -y --reinstall /root/libvirt-daemon*.deb").ok()
    guests.all_run(machine, {"win11", "late"})
    machine.sh("vtpm-guard doctor").ok().says("nothing found")
    guests.stop(machine, "late")
    guests.start(machine, "late")
