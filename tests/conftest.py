"""Tests use one thread each: the tensors are tiny, and threads would only wait for each other.

What a test marked `fault` has survived is noted as a line of JSON in the file that WM_SURVIVED names;
benchmarks/reliability.py makes a table of them.
"""

import json
import os

import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    path = os.environ.get("WM_SURVIVED")
    if not path or report.when != "call" or not report.passed:
        return
    with open(path, "a") as file:
        for mark in item.iter_markers("fault"):
            row, injected, outcome = mark.args
            test = f"{item.path.name}::{item.originalname}"
            line = {"row": row, "injected": injected, "outcome": outcome, "test": test, "case": item.name}
            line |= dict(item.user_properties)
            file.write(json.dumps(line) + "\n")
