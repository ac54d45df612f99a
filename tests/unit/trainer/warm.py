"""Trains one spec after the other in one process, so that the libraries are loaded once; run as a script by test_train.py.

Reads spec files from the command line and prints one JSON line each: {"ok": true, "reloaded": canary log-probabilities} or the error event of `python -m trainer`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from trainer.child import child_environment

os.environ.update(child_environment(offline=True))


def reload(spec: Any) -> list[float]:
    """The canary's log-probabilities after stock PEFT loaded the files onto a fresh base."""
    from peft import PeftModel

    from trainer.data import recipe_template
    from trainer.heldout import canary
    from trainer.train import load_base, load_tokenizer

    tokenizer = load_tokenizer(spec.base.path)
    model = PeftModel.from_pretrained(load_base(spec.base.path, spec.recipe), spec.out_dir / "files").eval()
    return [row["logprob"] for row in canary(model, tokenizer, recipe_template(spec.recipe, tokenizer))]


def main(paths: list[str]) -> None:
    from trainer.failures import explain
    from trainer.spec import TrainSpec
    from trainer.train import train

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for path in paths:
        try:
            train(TrainSpec.read(Path(path)), lambda _event: None)
            told = {"ok": True, "reloaded": reload(TrainSpec.read(Path(path)))}
        except Exception as error:  # noqa: BLE001 - the same edge as trainer.__main__
            known = explain(error, "test")
            told = {"ok": False, "code": known.code, "message": known.message, "hint": known.hint}
        out.write(json.dumps(told) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
