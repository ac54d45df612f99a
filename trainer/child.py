"""The environment a training process runs in. Set before torch is loaded, because MKL and CUDA read theirs once. And how it stops to listen."""

import os
import signal
import threading


def child_environment(*, offline: bool, devices: int = 1) -> dict[str, str]:
    """A copy of the environment with what makes a run repeatable and quiet; with `offline`, nothing is fetched. The child sees `devices` GPUs, no more."""
    env = dict(os.environ)
    env.update(
        {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "false",  # its threads would be forked by the data loader
            "PYTHONUNBUFFERED": "1",
            # OpenMP threads that spin while they wait fight every other process for the cores: on 2 busy cores a training took 2 to 3 times as long (measured).
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "1000",
            # MKL otherwise picks its code path by the alignment of each buffer, which may differ from run to run (Intel's CNR guide).
            "MKL_CBWR": "AUTO",
            # What cuBLAS asks for under torch.use_deterministic_algorithms (CUDA's reproducibility notes).
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        }
    )
    if offline:
        env.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    visible = env.get("CUDA_VISIBLE_DEVICES")
    mine = visible.split(",") if visible is not None else [str(n) for n in range(devices)]
    env["CUDA_VISIBLE_DEVICES"] = ",".join(mine[:devices])  # a process that sees more GPUs than it trains on makes a context on each
    return env


def hear_no_more() -> None:
    """From now on a SIGTERM to this process is ignored: it was asked to stop, and is about to say how far it came. Outside the main thread, nothing happens."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def rank() -> int:
    """Which of the processes that train one model together this is: accelerate's launcher says so in RANK; alone it is 0."""
    return int(os.environ.get("RANK", "0"))
