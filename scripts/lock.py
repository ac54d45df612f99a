"""Renews constraints.txt: one version of every package for Python 3.11 up to the newest, no hashes, no index lines, no CUDA packages."""

import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
HEADER = "# Locked versions for Python 3.11 and newer; made by 'make lock'. CUDA packages come with a GPU build of torch and are not pinned here.\n"
# They are torch's own choice and differ between its CPU and GPU builds.
CUDA = re.compile(r"^(nvidia-|triton|cuda-)", re.IGNORECASE)


def main() -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11", "--all-extras", "--quiet"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--upgrade", "pyproject.toml"]
    found = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout
    lines = [line for line in found.splitlines(keepends=True) if not CUDA.match(line)]
    (REPO / "constraints.txt").write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} packages locked")


if __name__ == "__main__":
    main()
