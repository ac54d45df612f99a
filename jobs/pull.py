"""Brings a version's files from the store to a folder of this machine, each checked against its digest before it appears."""

from pathlib import Path

from registry.artifacts import ArtifactStore, blob_of
from registry.errors import AlreadyExists, Invalid
from registry.manifest import canonical
from registry.models import AdapterVersion


def pull(store: ArtifactStore, version: AdapterVersion, folder: Path) -> list[Path]:
    """Write the files and registry.json (the manifest, last: its existence means complete). Files that are there already with the right bytes stay.

    Raises AlreadyExists where another file stands in the way, DigestMismatch where the stored copy is damaged, Unavailable, OSError.
    """
    if folder.exists() and not folder.is_dir():
        raise Invalid(f"{folder} is a file; expected a folder to write the adapter into.")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file in version.files:
        target = folder / file.path
        if target.exists():
            if blob_of(target).digest == file.sha256:
                continue
            raise AlreadyExists(f"{target} exists with other content.", hint="Choose an empty folder: --out FOLDER")
        store.get_file(file.sha256, target)
        target.chmod(0o644)
        written.append(target)
    manifest = {
        "ref": f"{version.advisor.slug}@{version.number}",
        "digest": version.digest,
        "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in version.files],
    }
    (folder / "registry.json").write_bytes(canonical(manifest) + b"\n")
    return written
