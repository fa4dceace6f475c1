"""The benchmark is a program, not a test of speed; this only runs it, with tiny sizes."""

import os
import subprocess
import sys

from helpers import ROOT


def test_the_benchmark_measures_every_row(tidb_server):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "benchmark.py"), "--latency", "0", "--runs", "1",
         "--texts", "200"], env=dict(os.environ, TIDB_TEST_URL=tidb_server),
        capture_output=True, text=True)
    assert done.returncode in (0, 1) and done.stderr == ""  # 1: a mark missed, at these sizes
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 9
    for row in rows:
        assert len(row) == 7 and float(row[2]) > 0 and float(row[3]) > 0 and float(row[4]) > 0
