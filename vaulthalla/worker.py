"""A helper process for one run: `python -m vaulthalla.worker --run ID`. Needs the database, and no broker.

Ends when the run is over, or on SIGTERM once the chunk at hand has stopped.
"""

from __future__ import annotations

import argparse
import sys

from vaulthalla.startup import leave_quickly, setup


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vaulthalla.worker", description=__doc__)
    parser.add_argument("--run", type=int, required=True, metavar="ID", help="the run to work on until it is over")
    run_id: int = parser.parse_args(arguments).run
    setup(start=False)
    from vaulthalla.errors import VaulthallaError
    from vaulthalla.work import doorbell
    from vaulthalla.work.drive import drive

    doorbell.be_patient()
    try:
        drive(run_id)
    except VaulthallaError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main()
    leave_quickly()
    raise SystemExit(code)
