"""`make demo`: the main job from beginning to end, on this machine, without network: train, promote, show the sources, roll back, verify.

It uses the example advisor elena and the built-in tiny base, in the folder .demo, and only the command line that users have.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
HOME = REPO / ".demo"
PAIRS = REPO / "examples" / "elena" / "pairs.jsonl"


def step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def registry(*arguments: str) -> None:
    """Run the command line as a user would, and show what was typed."""
    print(f"$ registry {' '.join(a if ' ' not in a else repr(a) for a in arguments)}", flush=True)
    subprocess.run(
        [str(Path(sys.executable).with_name("registry")), *arguments], check=True, cwd=REPO, env=os.environ | {"REGISTRY_HOME": str(HOME)}
    )


def main() -> None:
    started = time.monotonic()
    for name in ("catalogue.db", "catalogue.db-wal", "catalogue.db-shm"):
        (HOME / name).unlink(missing_ok=True)
    for name in ("artifacts", "work"):  # the built-in base is kept: it is the same every time
        shutil.rmtree(HOME / name, ignore_errors=True)
    HOME.mkdir(exist_ok=True)
    half = HOME / "elena-first-half.jsonl"
    lines = PAIRS.read_text(encoding="utf-8").splitlines(keepends=True)
    half.write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    sources = str(PAIRS.with_name("sources.json"))

    step("An installation and an advisor with her system prompt")
    registry("init")
    registry(
        "advisors",
        "add",
        "elena",
        "--prompt-file",
        str(PAIRS.with_name("prompt.md")),
        "--role",
        "Burnout recovery guide",
        "--alias",
        "dr-elena",
        "--public",
    )
    step("Version 1: half of her training pairs, each with the sources it rests on")
    registry("datasets", "import", str(half), "--advisor", "elena", "--sources", sources)
    registry("train", "--advisor", "elena", "--base", "tiny")
    registry("promote", "elena@1", "--reason", "first version")
    step("Version 2: all pairs")
    registry("datasets", "import", str(PAIRS), "--advisor", "elena", "--sources", sources)
    registry("train", "--advisor", "elena", "--base", "tiny")
    registry("promote", "elena@2", "--reason", "twice the data")
    registry("diff", "elena@1", "elena@2")
    step("What the public may read")
    registry("card", "elena")
    step("Back to yesterday's version, and the history of it all")
    registry("rollback", "elena", "--reason", "demonstration")
    registry("versions", "elena")
    registry("log", "elena")
    registry("verify", "elena@live")
    registry("audit")
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. Serve it: REGISTRY_HOME={HOME} {Path(sys.executable).with_name('registry')} serve"
    )
    print("and read http://127.0.0.1:8000/advisors/elena/sources")


if __name__ == "__main__":
    main()
