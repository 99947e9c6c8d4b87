"""Makes the numbers in rliable.json anew, of the scores in it, with the package rliable, which
nothing else needs:

    python -m venv somewhere && somewhere/bin/pip install rliable 'pandas<3'
    somewhere/bin/python tests/support/rliable_numbers.py            compares, and says how far the two are apart
    somewhere/bin/python tests/support/rliable_numbers.py --write    replaces them

Those that are there were made by rliable 1.2.0 with arch 7.2.0, scipy 1.17.1 and numpy 2.4.6; that
arch cannot be imported beside pandas 3. Intervals are drawn at random, without a seed: made anew,
ends differ by up to 1 or 2.
"""

import json
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("rliable.json")
DRAWS, PROFILE_DRAWS = 50_000, 20_000
DIGITS = {"point": 6, "low": 2, "high": 2, "profile": 6, "profile_low": 4, "profile_high": 4}


def numbers(scores, taus):
    """Of scores (runs, tasks): points and intervals of mean, median and IQM, and the performance
    profile at `taus`.
    """
    from rliable import library, metrics

    aggregates = (metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_iqm)
    point, interval = library.get_interval_estimates(
        {"it": scores}, lambda x: np.array([aggregate(x) for aggregate in aggregates]), reps=DRAWS
    )
    profile, around = library.create_performance_profile({"it": scores}, taus, reps=PROFILE_DRAWS)
    return {
        "point": point["it"],
        "low": interval["it"][0],
        "high": interval["it"][1],
        "profile": profile["it"],
        "profile_low": around["it"][0],
        "profile_high": around["it"][1],
    }


def lines(cases):
    """One line for each list, so that a change can be read."""
    parts = []
    for name, case in cases.items():
        rows = (f"  {json.dumps(key)}: {json.dumps(values)}" for key, values in case.items())
        parts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(argv):
    cases = json.loads(FILE.read_text())
    for name, case in cases.items():
        found = numbers(np.array(case["scores"]), np.array(case["taus"]))
        for key, values in found.items():
            gap = np.abs(np.asarray(values) - case[key]).max()
            print(f"{name} {key}: at most {gap:.3g} apart")
            case[key] = [round(float(x), DIGITS[key]) for x in values]
    if "--write" in argv:
        FILE.write_text(lines(cases))


if __name__ == "__main__":
    main(sys.argv[1:])
