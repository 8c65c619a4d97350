"""For gdb: runs a program, stops it at its end, and writes what is in its memory then.

Below the directory DUMP_TO: `memory` is all that it could write to, and `ended`, which is made last, its exit status.
STREAMS are the redirections with which it runs.
"""

import os

import gdb

directory = os.environ["DUMP_TO"]
gdb.execute("set pagination off")
gdb.execute("set confirm off")
gdb.execute("catch syscall exit_group")
# What is said to "run" takes the place of all arguments.
arguments = gdb.execute("show args", to_string=True).split('"', 1)[1].rsplit('"', 1)[0]
gdb.execute("run %s %s" % (arguments, os.environ["STREAMS"]))
status = int(gdb.parse_and_eval("$x0" if os.uname().machine == "aarch64" else "$rdi"))
pid = gdb.selected_inferior().pid
with open("/proc/%d/mem" % pid, "rb", 0) as memory, open(directory + "/memory", "wb") as dump:
    for line in open("/proc/%d/maps" % pid):
        span, rights = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if not rights.startswith("rw"):
            continue
        try:
            memory.seek(start)
            dump.write(memory.read(end - start))
        except (OSError, ValueError):
            continue
with open(directory + "/ending", "w") as ending:
    ending.write(str(status))
os.rename(directory + "/ending", directory + "/ended")
gdb.execute("kill")
