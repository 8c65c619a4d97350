"""The pages of docs/ whose commands are played word for word."""

import re

from machine import REPOSITORY, expect


def blocks(page, heading, kind="sh"):
    """The blocks of commands, or of another kind, under a heading of a page."""
    text = (REPOSITORY / "docs" / page).read_text()
    _, found, section = text.partition(f"\n## {heading}\n")
    expect(found, f"{page} has no heading {heading!r}")
    section = section.split("\n## ")[0]
    found = re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)
    expect(found, f"{page} has no block of {kind} under {heading!r}")
    return found


def play(machine, page, heading):
    """Plays all of them as a shell would that stops at the first failure."""
    return machine.sh("".join(blocks(page, heading))).ok()
