"""What the fault tests share: how much, which seed, and where the tools are.

  FAULT_SCALE                how many times the usual number of images, kills, mutants ... (1)
  FAULT_SEED                 the seed of everything random (default: a fixed one)
  JADEVECTORDB_FAULT_TOOLS   the folder of the built tools (run-fault-tests.sh sets it)
"""
import os
import pathlib

import harness

SCALE = float(os.environ.get("FAULT_SCALE", "1"))
SEED = int(os.environ.get("FAULT_SEED", "20261120"))
TOOLS = pathlib.Path(os.environ.get("JADEVECTORDB_FAULT_TOOLS",
                                    harness.BIN.parent / "tests" / "faults"))


def count(usual, least=1):
    """So many of them: scaled, and fewer where a sanitizer makes each of them slow."""
    return harness.scaled(max(least, int(usual * SCALE)), least)
