"""The commands of ``quantskew``, a file each.

A command is a module with a ``COMMAND``; :data:`COMMANDS` lists them in the order of the help. What
a command runs is imported by the function that runs it, so that the help answers at once.
"""

from quantskew.commands import (
    answers,
    compare,
    convert,
    doctor,
    gate,
    init,
    latency,
    layers,
    plan,
    report,
    runtimes,
    slices,
    verify,
)

_IN_ORDER = (
    gate, runtimes, answers, convert, layers, compare, verify, plan, slices, latency, init, report,
    doctor,
)  # fmt: skip
COMMANDS = tuple(module.COMMAND for module in _IN_ORDER)
