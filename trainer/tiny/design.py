"""The design of the built-in base, as data: its digest names the folder it is built into."""

from typing import Any

DESIGN: dict[str, Any] = {
    "format": "tiny-base/1",
    "seed": 20260101,
    "threads": 2,  # every machine has them (one core runs two threads, slower), and the number of threads is part of the bits
    "hidden_size": 128,
    "intermediate_size": 256,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "context": 8192,
    "sequence": 256,
    "batch": 8,
    "steps": 120,
    "learning_rate": 3e-3,
    "warmup_steps": 20,
    "decay_share": 0.4,
    "weight_decay": 0.1,
    "beta2": 0.98,
    "max_grad_norm": 1.0,
}
