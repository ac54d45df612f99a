"""Which base model a name means: the built-in tiny one, a folder, or a repository of a hub; and which exact revision of it.

Rules: a base is pinned before anything is trained on it; a hub base by its 40-hex commit, the others by the first 40 hex digits of their weights' sha256; a
revision is never invented; no absolute path ever becomes a base's name. Only safetensors weights count. Loads no torch: the built-in base is made by a
process of its own.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

from registry.errors import Invalid, NotFound, Unavailable
from registry.known_bases import known_base
from registry.manifest import digest
from trainer import borrowed
from trainer.chat import PLAIN, choose_template, folder_template, template_digest

TINY = "tiny"
BASE_FILE = "base.json"
TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of the variable that huggingface_hub reads
OnEvent = Callable[[Mapping[str, Any]], None]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[0-9a-f]{40}")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class BaseSpec:
    """One exact base. `config` is its config.json, from which the registry reads the shapes; `path` is set for builtin and local only.

    `chat_template_sha256` is of the base's own template; `template` names the one to train with (trainer.chat.choose_template), None where nobody looked.
    """

    kind: Literal["builtin", "hub", "local"]
    repo: str
    revision: str | None
    path: Path | None = None
    weights_sha256: str | None = None
    note: str | None = None
    config: Mapping[str, Any] | None = None
    chat_template_sha256: str | None = None
    template: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The JSON object of a TrainSpec; a path as text."""
        return asdict(self) | {"path": str(self.path) if self.path else None, "config": dict(self.config) if self.config else None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "BaseSpec":
        """Read `as_json` back. Raises Invalid for unknown names and for a kind or revision that cannot be."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(map(str, value.keys() - known)):
            raise Invalid(f"A base in a train spec has no {unknown[0][:60]!a}; known: {', '.join(sorted(known))}.")
        kind, repo, revision = value.get("kind"), value.get("repo"), value.get("revision")
        if kind not in {"builtin", "hub", "local"} or not isinstance(repo, str):
            raise Invalid(f"A base in a train spec has a kind (builtin, hub or local) and a repo; found {kind!a} and {repo!a}.")
        if revision is not None and not (isinstance(revision, str) and _REVISION.fullmatch(revision)):
            raise Invalid(f"A base's revision is 40 lower-case hex digits or null; found {str(revision)[:60]!a}.")
        path = value.get("path")
        if kind != "hub" and not path:
            raise Invalid(f"A {kind} base in a train spec needs the path of its folder.")
        return cls(**{**value, "path": Path(path) if path else None})

    def without_path(self) -> "BaseSpec":
        """The same base without the place where it lies on this machine."""
        return BaseSpec(**{**{f.name: getattr(self, f.name) for f in fields(self)}, "path": None})


def resolve_base(name: str, home: Path, on_event: OnEvent | None = None, *, endpoint: str | None = None, folders: bool = True) -> BaseSpec:
    """The exact base that `name` means: 'tiny', an existing folder, or a hub id 'org/name' with an optional '@revision'.

    `home` is the registry's home folder, under which the built-in base is made when it is missing (`on_event` gets the progress). `endpoint` is another hub
    than the default one. Without `folders` a name never means a folder of this machine: for names that came from elsewhere. A known base
    (registry.known_bases) without '@revision' is taken at its card's revision. Raises Invalid (not a name, an incomplete folder, a gated repository), NotFound, or Unavailable (no network and not in the cache).
    """
    if name == TINY:
        from trainer.tiny.builtin import builtin_base

        return builtin_base(home, on_event)
    folder = Path(name).expanduser() if folders else None
    if name and folder is not None and folder.is_dir():
        return _told(local_base(folder), on_event)
    repo, _, revision = name.partition("@")
    if not _HUB_NAME.fullmatch(repo) or Path(name).is_absolute() or name.startswith((".", "~")):
        _refuse_name(name, folder)
    repo, revision = _known(repo, revision, on_event)
    with borrowed.in_use(home), borrowed.fetching(home, repo):  # what comes is this tool's, for `registry cleanup`
        base = _hub_base(repo, revision or None, endpoint)
    return _told(base, on_event)


def _known(repo: str, revision: str, on_event: OnEvent | None) -> tuple[str, str]:
    """The hub's present name of a known base and, where none is asked for, the revision of its card; said in a warning event."""
    known = known_base(repo)
    if known is None:
        return repo, revision
    if not revision and known.revision and on_event:
        message = f"{known.repo} is taken at {known.revision}, the revision this release knows; for another one say {known.repo}@revision."
        on_event({"event": "warning", "message": message})
    return known.repo, revision or known.revision or ""


def _told(base: BaseSpec, on_event: OnEvent | None) -> BaseSpec:
    """Say it when the base's own chat template is passed over."""
    if base.template == PLAIN and base.chat_template_sha256 and on_event:
        message = f"The chat template of {base.repo} does not say which words are the assistant's; the packaged plain one is used instead."
        on_event({"event": "warning", "message": message})
    return base


def _refuse_name(name: str, folder: Path | None) -> NoReturn:
    if folder is None:
        raise Invalid(f"A job's base is '{TINY}' or a hub id 'org/name', optionally 'org/name@revision'; found {name[:200]!a}.")
    if folder.is_file():
        raise Invalid(f"A base is a folder; {name[:200]!a} is a file.", hint="Give the folder that holds config.json and the weights.")
    if "/" in name or name.startswith((".", "~")):
        raise NotFound(f"There is no folder {name[:200]!a}.", hint="Give an existing folder, a hub id such as org/name, or tiny.")
    raise Invalid(
        f"A base is '{TINY}', an existing folder, or a hub id 'org/name', optionally 'org/name@revision'; found {name[:200]!a}.",
        hint="For example mistralai/Mistral-7B-Instruct-v0.3.",
    )


def local_base(folder: Path) -> BaseSpec:
    """A base in a folder: config.json, safetensors weights and a tokenizer. Its revision is the first 40 hex digits of its weights' sha256.

    Its name is 'local/<folder name>', so that no path of this machine is published. Raises Invalid and says which file is missing.
    """
    config = read_config(folder)
    weights = weights_digest(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise Invalid(
            f"The folder {folder.name!a} has no tokenizer: expected one of {', '.join(_TOKENIZERS)}.",
            hint="Save the tokenizer beside the weights.",
        )
    template = folder_template(folder)
    return BaseSpec(
        kind="local",
        repo=f"local/{_neutral(folder)}",
        revision=revision_of(weights),
        path=folder.absolute(),
        weights_sha256=weights,
        config=config,
        chat_template_sha256=template_digest(template) if template else None,
        template=choose_template("", config, folder),
    )


def _neutral(folder: Path) -> str:
    """The folder's own name, with every character a repository name cannot have as '-'."""
    return re.sub(r"[^\w.-]+", "-", folder.resolve().name, flags=re.ASCII).strip("-.") or "base"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises Invalid when it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise Invalid(
            f"The folder {folder.name!a} has no config.json, so it is no base model.", hint="Give the folder that holds config.json."
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"config.json in {folder.name!a} is not JSON: {error}.", hint="Download or save the base again.") from None
    if not isinstance(value, dict):
        raise Invalid(f"config.json in {folder.name!a} is not a JSON object.", hint="Download or save the base again.")
    return value


def weights_digest(folder: Path) -> str:
    """sha256 of the only *.safetensors file; of several shards, sha256 over the canonical list of [name, sha256]. Raises Invalid when there is none."""
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        other = next((p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in sorted(folder.glob(pattern))), None)
        found = f"found {other}, which is a pickle and is never loaded" if other else "found none"
        raise Invalid(
            f"The folder {folder.name!a} needs its weights as *.safetensors; {found}.", hint="Save the model with save_pretrained."
        )
    digests = [(p.name, file_digest(p)) for p in shards]
    return digests[0][1] if len(digests) == 1 else digest([list(pair) for pair in digests])


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces of 1 MiB, as sha256:<hex>. Raises OSError."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            hasher.update(piece)
    return "sha256:" + hasher.hexdigest()


def revision_of(weights_sha256: str) -> str:
    """The revision of a base that has none of its own: the first 40 hex digits of its weights' sha256."""
    return weights_sha256.removeprefix("sha256:")[:40]


def _hub_base(repo: str, wanted: str | None, endpoint: str | None) -> BaseSpec:
    """Pin a hub repository to a commit and read its config and chat template; the weights are fetched by the training process."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi(endpoint=endpoint)
    try:
        return _read_hub(api, repo, _commit(repo, api.model_info(repo, revision=wanted, timeout=20).sha))
    except GatedRepoError:
        raise _gated(repo) from None
    except RevisionNotFoundError:
        raise NotFound(f"{repo} has no revision {str(wanted)[:80]!a}.", hint="Leave '@revision' away for the newest one.") from None
    except RepositoryNotFoundError:
        raise _missing(repo) from None
    except LocalEntryNotFoundError:  # a file could not be fetched, which is another matter than one that is not there
        return _cached_base(repo, wanted)
    except EntryNotFoundError:
        raise Invalid(f"{repo} has no config.json, so it is no base model.", hint="Choose a causal language model.") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in {401, 403}:
            raise _gated(repo) from None
        return _cached_base(repo, wanted)
    except Exception as error:
        if type(error).__module__.split(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2"}:  # the client's own errors are no OSErrors
            return _cached_base(repo, wanted)
        raise


def _commit(repo: str, sha: str | None) -> str:
    if sha is None or not _REVISION.fullmatch(sha):
        raise Invalid(f"The hub names no commit for {repo}, so it cannot be pinned.", hint="Download it and give its folder.")
    return sha


def _gated(repo: str) -> Invalid:
    known = known_base(repo)
    licence, page = (f"the {known.licence}", known.licence_page) if known else ("a licence", f"https://huggingface.co/{repo}")
    variable = known.token_variable or TOKEN_VARIABLE if known else TOKEN_VARIABLE
    return Invalid(
        f"{repo} is gated: its owner asks you to accept {licence} first.",
        hint=f"Accept it at {page}, then set {variable} to a token of that account.",
    )


def _missing(repo: str) -> NotFound:
    """A hub answers alike for a model that is not there and for one that may not be seen, so a known base's hint is about the licence."""
    known = known_base(repo)
    hint = f"Check the spelling; for a private model set {TOKEN_VARIABLE}."
    if known is not None and known.gated:
        hint = f"Accept its licence at {known.licence_page}, then set {known.token_variable} to a token of that account."
    return NotFound(f"The hub has no model {repo} that may be seen from here.", hint=hint)


def _read_hub(api: Any, repo: str, commit: str) -> BaseSpec:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = Path(api.hf_hub_download(repo, "config.json", revision=commit)).parent
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        try:
            api.hf_hub_download(repo, name, revision=commit)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            continue
    return _from_snapshot(folder, repo, commit)


def _from_snapshot(folder: Path, repo: str, commit: str) -> BaseSpec:
    template, config = folder_template(folder), read_config(folder)
    return BaseSpec(
        kind="hub",
        repo=repo,
        revision=commit,
        config=config,
        chat_template_sha256=template_digest(template) if template else None,
        template=choose_template(repo, config, folder),
    )


def _cached_base(repo: str, wanted: str | None) -> BaseSpec:
    """The base as an earlier download left it. Raises Unavailable when there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        found = Path(hf_hub_download(repo, "config.json", revision=wanted, local_files_only=True))
    except (EntryNotFoundError, OSError, ValueError):
        raise Unavailable(
            f"The hub does not answer, and {repo} is not in this machine's cache.",
            hint=f"Check the network (and HF_ENDPOINT), give a folder, or use --base {TINY}.",
        ) from None
    # .../models--org--name/snapshots/<commit>/config.json
    return _from_snapshot(found.parent, repo, found.parent.name)
