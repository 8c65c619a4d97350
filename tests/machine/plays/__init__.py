"""What is played on the machine: each play is a function with a sentence that says what passed."""

PLAYS = {"container": [], "modular": [], "vm": [], "selinux": []}


def play(sentence, on=("container",)):
    """Adds a play to the end of the list of these machines. It depends on those before it."""

    def add(function):
        for machine in on:
            PLAYS[machine].append((sentence, function))
        return function

    return add
