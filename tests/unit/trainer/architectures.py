"""Trains specs one after the other in one warm process and loads each result with stock PEFT or transformers; run as a script by test_architectures.py.

Reads spec files from the command line and prints one JSON line each: {"ok": true, "reloaded": canary log-probabilities} or {"ok": false, "message"}.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from trainer.child import child_environment

os.environ.update(child_environment(offline=True))


def reload(spec: Any) -> list[float]:
    """The canary's log-probabilities of the files, loaded as anyone would: nothing of this product is in the model."""
    from transformers import AutoTokenizer

    from trainer.data import recipe_template
    from trainer.heldout import canary_examples, measure_one

    tokenizer = AutoTokenizer.from_pretrained(spec.base.path)
    fixed = canary_examples(tokenizer, recipe_template(spec.recipe, tokenizer))
    return [-loss for loss in measure_one(stock_model(spec).eval(), [], fixed, lambda _n, _of: None).canary]


def stock_model(spec: Any) -> Any:
    """The trained model: the base with the adapter by PEFT, or the full fine-tune by transformers."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    files, dtype = spec.out_dir / "files", getattr(torch, spec.recipe.dtype)
    if spec.recipe.method == "full":
        return AutoModelForCausalLM.from_pretrained(files, dtype=dtype)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    options = {"quantization_config": nf4} if spec.recipe.method == "qlora" else {}
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(spec.base.path, dtype=dtype, **options), files)


def main(paths: list[str]) -> None:
    from trainer.failures import explain
    from trainer.loading import Bases
    from trainer.spec import TrainSpec
    from trainer.train import train

    out, bases = os.fdopen(os.dup(1), "w"), Bases()
    os.dup2(2, 1)
    for path in paths:
        spec = TrainSpec.read(Path(path))
        try:
            train(spec, lambda _event: None, bases=bases)
            told: dict[str, Any] = {"ok": True, "reloaded": reload(spec)}
        except Exception as error:  # noqa: BLE001 - the same edge as trainer.__main__
            known = explain(error, "test")
            told = {"ok": False, "code": known.code, "message": known.message, "hint": known.hint}
        out.write(json.dumps(told) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
