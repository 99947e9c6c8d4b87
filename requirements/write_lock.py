"""Write the lock of the Python that runs this: python3.12 requirements/write_lock.py [FILE]

A lock lists the newest releases within requirements.txt and the test tools, as constraints for
pip. It names no index. Local versions such as +cpu are left out, and so are the parts of CUDA,
whose releases torch itself names: the lock fits every build of torch.
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OF_TORCH = re.compile(r"nvidia-|cuda-|triton")


def resolve(folder: Path) -> dict:
    """Let the newest pip choose releases without installing any; {package: release}."""
    venv.create(folder / "env", with_pip=True)
    pip = [str(folder / "env/bin/python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "pip"], check=True)
    found = re.search(r"^test = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    wanted = ["-r", str(ROOT / "requirements.txt"), *ast.literal_eval(found.group(1))]
    how = ["--dry-run", "--ignore-installed", "--only-binary=:all:"]
    report = folder / "report.json"
    subprocess.run([*pip, *how, "--report", str(report), *wanted], check=True)
    releases = [p["metadata"] for p in json.loads(report.read_text())["install"]]
    return {p["name"].lower().replace("_", "-"): p["version"].split("+")[0] for p in releases}


def main() -> None:
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}.txt"
    target = Path(sys.argv[1]) if sys.argv[1:] else HERE / name
    with tempfile.TemporaryDirectory() as folder:
        releases = resolve(Path(folder))
    lines = [f"{p}=={r}" for p, r in sorted(releases.items()) if not OF_TORCH.match(p)]
    target.write_text("# Written by requirements/write_lock.py.\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
