"""Runs a program once, as libvirtd runs a hook: what `./dev bench` measures with."""

import os
import sys
import time

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}


def run_once(argv, stdin_path):
    """Seconds from fork to exit, and of CPU: also those of children that were waited for. It must succeed."""
    stdin, nowhere = os.open(stdin_path, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, nowhere, 1)]
    begin = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, ENVIRONMENT, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    took = time.perf_counter() - begin
    os.close(stdin)
    os.close(nowhere)
    if status != 0:
        sys.exit(f"{' '.join(argv)}: status {os.waitstatus_to_exitcode(status)}")
    return took, usage.ru_utime + usage.ru_stime


def prepare(guest, xml):
    """Milliseconds of the hook, as libvirtd calls it before it starts a guest."""
    return run_once(["/usr/sbin/vtpm-guard-hook", guest, "prepare", "begin", "-"], xml)[0] * 1000
