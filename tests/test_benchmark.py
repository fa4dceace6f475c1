"""The benchmark is a program, not a test of speed. This only runs it, with tiny sizes."""

import os
import subprocess
import sys

import pytest
from benchmark import Row
from helpers import ROOT

BENCHMARK = str(ROOT / "tests" / "benchmark.py")
TINY = ["--latency", "0", "--a-text", "0", "--runs", "1", "--texts", "200"]


def run_benchmark(*arguments, **settings):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )


def cells_of(line):
    """Return what the cells of a line of a table hold."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_row_is_measured(tidb_server):
    done = run_benchmark(BENCHMARK, *TINY, TIDB_TEST_URL=tidb_server)

    assert done.stderr == ""
    machine, _, head, _, *rows = done.stdout.splitlines()
    assert "cores, Python" in machine
    assert len(rows) == 9
    cells = [dict(zip(cells_of(head), cells_of(row))) for row in rows]
    for name in "project", "other", "ratio":
        assert all(float(row[name].replace(",", "")) > 0 for row in cells)
    is_missed = any(row["reached"] == "**no**" for row in cells)
    assert done.returncode == int(is_missed)


@pytest.mark.parametrize("mark, higher_is_better, cells", [
    pytest.param(0.6, False, "0.5 | lower | ≤ 0.6 | yes", id="lower, reached"),
    pytest.param(0.4, False, "0.5 | lower | ≤ 0.4 | **no**", id="lower, missed"),
    pytest.param(1.9, True, "2 | higher | ≥ 1.9 | yes", id="higher, reached"),
    pytest.param(2.1, True, "2 | higher | ≥ 2.1 | **no**", id="higher, missed"),
])
def test_a_row_says_which_direction_is_better_and_whether_the_mark_is_reached(
        capsys, mark, higher_is_better, cells):
    row = Row("load, ms", "a loader", lambda: 0.1, lambda: 0.2, mark, higher_is_better)

    reached = row.measure(runs=1)

    assert capsys.readouterr().out == f"| load, ms | a loader | 100 | 200 | {cells} |\n"
    assert reached == ("yes" in cells)


def test_the_medians_of_the_runs_count(capsys):
    project = iter([1, 100, 2])
    other = iter([3, 0, 4])
    row = Row("", "", lambda: next(project), lambda: next(other), mark=1, unit=1)

    row.measure(runs=3)

    assert "| 2 | 3 | 0.667 |" in capsys.readouterr().out


def test_outside_the_environment_one_line_says_what_to_install():
    done = run_benchmark("-S", BENCHMARK)  # -S hides the packages that are installed

    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "pip install -r requirements.txt -r tests/requirements.txt" in line
    assert done.returncode == 1
