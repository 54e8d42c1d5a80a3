"""``quantskew doctor``: the installation and the data are checked."""

import argparse

from quantskew.commands.common import FAIL, PASS, Command

TEXT = "check the installation and list which data are available"


def _run(_: argparse.Namespace) -> int:
    from quantskew.doctor import examine

    checks = [*examine()]
    for check in checks:
        print(check.line())
    return FAIL if any(check.sound is False for check in checks) else PASS


COMMAND = Command("doctor", TEXT, _run)
