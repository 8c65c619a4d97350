"""The pages of docs/ whose commands are played word for word."""

import re

from machine import REPOSITORY, expect


def blocks(page, heading):
    """The blocks of commands under a heading of a page."""
    text = (REPOSITORY / "docs" / page).read_text()
    _, found, section = text.partition(f"\n## {heading}\n")
    expect(found, f"{page} has no heading {heading!r}")
    section = section.split("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    expect(commands, f"{page} has no commands under {heading!r}")
    return commands


def play(machine, page, heading):
    """Plays all of them as a shell would that stops at the first failure."""
    return machine.sh("".join(blocks(page, heading))).ok()
