"""A machine that boots: what the plays do with it, whether it is the container or the VM."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


class Failed(Exception):
    """What a play expected and did not find."""


def expect(condition, what):
    if not condition:
        raise Failed(what)


def wait_for(what, question, seconds=60, pause=0.2):
    """Asks until the answer is true."""
    until = time.monotonic() + seconds
    while not question():
        expect(time.monotonic() < until, f"{what}: not within {seconds} s")
        time.sleep(pause)


@dataclass
class Output:
    command: str
    status: int
    stdout: str
    stderr: str

    def ok(self):
        return self.exits(0)

    def exits(self, *statuses):
        expect(self.status in statuses, f"exit status {self.status}: {self}")
        return self

    def says(self, text):
        expect(text in self.stdout + self.stderr, f"it does not say {text!r}: {self}")
        return self

    def says_not(self, text):
        expect(text not in self.stdout + self.stderr, f"it says {text!r}: {self}")
        return self

    def __str__(self):
        said = (self.stdout + self.stderr).strip()
        return f"{self.command.strip()}\n{said}"


class Machine:
    """The container in a directory, made from a root: a tree or a disk."""

    slowness = 1
    has_tpm = False
    # Which daemon runs the guests.
    daemon = "libvirtd"

    def __init__(self, directory, root, script="container"):
        self.directory = Path(directory)
        self.root = root
        self.script = HERE / script

    def _script(self, *arguments, **options):
        command = [str(self.script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, **options)
        expect(done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}")

    def up(self):
        """Boots it. Returns how many seconds that took."""
        started = time.monotonic()
        self._script("up", self.directory, self.root, stdin=subprocess.DEVNULL)
        return time.monotonic() - started

    def down(self):
        self._script("down", self.directory)

    def cut(self):
        self._script("cut", self.directory)

    def note_cut(self, file):
        """Notes what its disk would have after a cut now."""
        self._script("note", self.directory, self.root, file)

    def look(self, file, command, seconds=300):
        """Runs a command in the tree that the disk would have after the cut that is noted in the file."""
        line = [str(self.script), "look", str(self.directory), str(self.root), str(file), "--", "sh", "-c", command]
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
        return Output(command, done.returncode, done.stdout, done.stderr)

    def reboot(self):
        self.down()
        return self.up()

    def sh(self, commands, stdin="", seconds=300):
        """Runs shell commands in it, up to the first that fails."""
        line = [str(self.script), "run", str(self.directory), "--", "sh", "-eu", "-c", commands]
        try:
            done = subprocess.run(
                line, input=stdin, capture_output=True, text=True, timeout=seconds * self.slowness
            )
        except subprocess.TimeoutExpired as late:
            raise Failed(f"no end after {late.timeout} s: {commands}") from None
        return Output(commands, done.returncode, done.stdout, done.stderr)

    def put(self, path, content, mode="0644"):
        """Writes a file in it: text, or the file that a path names."""
        if isinstance(content, Path):
            content = content.read_bytes()
        if isinstance(content, str):
            content = content.encode()
        command = f"mkdir -p '{Path(path).parent}' && cat >'{path}' && chmod {mode} '{path}'"
        line = [str(self.script), "run", str(self.directory), "--", "sh", "-c", command]
        done = subprocess.run(line, input=content, capture_output=True)
        expect(done.returncode == 0, f"{path}: {done.stderr.decode()}")


class VirtualMachine(Machine):
    """The VM, emulated in full: minutes for a boot."""

    slowness = 20
    has_tpm = True

    def __init__(self, directory, root):
        super().__init__(directory, root, script="vm")
