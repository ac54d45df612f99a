"""Which files may come with an adapter or a full fine-tune, and how large each may be. Looks at names and sizes, and reads nothing but README.md."""

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from registry.adapter_files.config import CONFIG_FILE
from registry.adapter_files.full_config import FULL_CONFIG_FILE
from registry.adapter_files.header import WEIGHTS_FILE
from registry.adapter_files.words import few, sentence, shown

README_FILE = "README.md"
FULL_WEIGHTS_FILE = "model.safetensors"
# The size caps. Weights: rank 64 on all linear modules of a 70B base take 1.7 GB in bf16. The config that PEFT writes has 1.2 kB, its model card 5 kB.
ALLOWED_FILES: Mapping[str, int] = {WEIGHTS_FILE: 2 * 1024**3, CONFIG_FILE: 64 * 1024, README_FILE: 1024**2}
REQUIRED_FILES = (WEIGHTS_FILE, CONFIG_FILE)
# Of a full fine-tune: Qwen 2.5 72B, the largest base that is known here, takes 145.4 GB in bf16. What one upload may have is REGISTRY_MAX_UPLOAD_MIB's to say.
FULL_FILES: Mapping[str, int] = {FULL_WEIGHTS_FILE: 150 * 1024**3, FULL_CONFIG_FILE: 64 * 1024, README_FILE: 1024**2}
MAX_WEIGHTS_BYTES = ALLOWED_FILES[WEIGHTS_FILE]

_SMALLER = {WEIGHTS_FILE: "Train with a lower rank or fewer target modules.", FULL_WEIGHTS_FILE: "Save the weights in bfloat16."}
_SHARD = re.compile(r"\w+(-\d{5}-of-\d{5}\.(safetensors|bin)|\.(safetensors|bin)\.index\.json)", re.ASCII)


def check_files(files: Mapping[str, Path], allowed: Mapping[str, int] = ALLOWED_FILES) -> tuple[list[str], dict[str, Path]]:
    """Every fault in the list of files, and the files that are worth opening. A link to a regular file counts as one: caches are built of them.

    `allowed` maps the names of the kind's files to the most bytes that each may have; all but the README must be there.
    """
    sentences = [
        sentence("The upload", f"{name} in it", "none", "Add the file.") for name in allowed if name != README_FILE and name not in files
    ]
    shards = sorted(shown(name) for name in files.keys() - allowed.keys() if _SHARD.fullmatch(name))
    surplus = sorted(shown(name) for name in files.keys() - allowed.keys() if not _SHARD.fullmatch(name))
    if shards:
        sentences.append(
            sentence("The upload", "the weights in one file", few(shards), "Save them with a max_shard_size above their size.")
        )
    if surplus:
        todo = "Leave the rest out: pickles, code and tokenizers never enter."
        sentences.append(sentence("The upload", "only " + ", ".join(allowed), few(surplus), todo))
    good: dict[str, Path] = {}
    for name in (name for name in allowed if name in files):
        fault = _fault(name, files[name], allowed[name])
        if fault is None:
            good[name] = files[name]
        else:
            sentences.append(fault)
    return sentences, good


def _fault(name: str, path: Path, most: int) -> str | None:
    """What is wrong with one file before it is parsed."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return sentence(name, "a regular file", "a folder, a pipe or a device", "Send the file itself.")
        if status.st_size > most:
            return sentence(name, f"at most {most} bytes", str(status.st_size), _SMALLER.get(name, "Shorten it."))
        return _readme_fault(path) if name == README_FILE else None
    except OSError as error:
        return unreadable(name, error)


def _readme_fault(path: Path) -> str | None:
    """A model card is text. What it says is shown by nobody but a reader of the download, so its words are not judged."""
    text = path.read_bytes()
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return sentence(README_FILE, "UTF-8 text", f"other bytes at position {error.start}", "Save it as UTF-8.")
    return sentence(README_FILE, "UTF-8 text", "a NUL character", "Save it as plain text.") if b"\0" in text else None


def unreadable(name: str, error: OSError) -> str:
    """The sentence for a file that could not be read."""
    return sentence(name, "a file that can be read", str(error.strerror or error), "Send it again.")
