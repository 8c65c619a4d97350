"""Which TPM is in a state: asked of a swtpm on a copy of it. Two states of one TPM have one identity."""

import hashlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

# TPM2_ReadPublic of the two endorsement keys that swtpm_setup makes.
READ_PUBLIC = "8001 0000000e 00000173 8101{:04x}"
ENDORSEMENT_KEYS = (0x0001, 0x0016)
# TPM2_CreatePrimary in the endorsement hierarchy: the same key from the same seed.
CREATE_PRIMARY = (
    "8002 00000043 00000131 4000000b 00000009 40000009 0000 00 0000 0004 0000 0000"
    "001a 0023 000b 00030072 0000 0006 0080 0043 0010 0003 0010 0000 0000 0000 00000000"
)


def identity(directory, key=None):
    """Digests of public keys of the TPM in this directory, or what swtpm said against it."""
    place = Path(tempfile.mkdtemp(dir="/run"))
    try:
        shutil.copy(Path(directory) / "tpm2-00.permall", place)
        command = ["swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear"]
        command += ["--tpmstate", f"dir={place}", "--server", f"type=unixio,path={place}/socket"]
        if key is not None:
            (place / "key").write_bytes(key)
            command += ["--key", f"pwdfile={place}/key,mode=aes-256-cbc"]
        swtpm = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            connection = connect(place / "socket", swtpm)
            return digest(connection) if connection else swtpm.stdout.read().decode().strip()[-200:]
        finally:
            swtpm.kill()
            swtpm.wait()
    finally:
        shutil.rmtree(place)


def connect(path, swtpm):
    connection = socket.socket(socket.AF_UNIX)
    while swtpm.poll() is None:
        try:
            connection.connect(str(path))
            return connection
        except OSError:
            time.sleep(0.01)
    return None


def ask(connection, command):
    connection.sendall(bytes.fromhex(command))
    answer = b""
    while len(answer) < 10 or len(answer) < int.from_bytes(answer[2:6], "big"):
        more = connection.recv(4096)
        if not more:
            raise ConnectionError("swtpm has ended")
        answer += more
    return answer


def digest(connection):
    """Of what its seed makes, and of the endorsement keys: those are unmade until swtpm_setup has come to its end."""
    primary = ask(connection, CREATE_PRIMARY)
    length = int.from_bytes(primary[18:20], "big")
    keys = [ask(connection, READ_PUBLIC.format(key)) for key in ENDORSEMENT_KEYS]
    are_made = all(answer[6:10] == bytes(4) for answer in keys)
    return f"{short(primary[20 : 20 + length])}-{short(b''.join(keys)) if are_made else 'unmade'}"


def short(public):
    return hashlib.sha256(public).hexdigest()[:16]
