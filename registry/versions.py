"""Register and fetch adapter versions.

Two phases: `begin` gives a number and records which files are expected (pending); the bytes go to the store, verified while they are written; `finish`
makes the version ready. Readers never see a pending version. Numbers are never used twice. The same advisor, persona, dataset, base, recipe and seed
give the version that exists already, unless forced; a rerun takes over a pending row that its predecessor left behind.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, case, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.sql.base import ExecutableOption

from registry import events
from registry.artifacts import Problem, Verifies
from registry.errors import Conflict, Invalid, NotFound
from registry.manifest import FileEntry, VersionManifest, digest
from registry.models import AdapterVersion, Advisor, AdvisorName, Alias, BaseModel, Blob, Dataset, Run, VersionCheckpoint, VersionFile
from registry.refs import ByAlias, ByDigest, ByNumber, Ref, clean_text, nearest, parse

# What a version of each kind must hold; a README may stand beside. A full fine-tune is a model of its own, an adapter is nothing without its base.
FILES_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "lora": ("adapter_model.safetensors", "adapter_config.json"),
    "full": ("model.safetensors", "config.json"),
}
ADAPTER_FILES = FILES_OF_KIND["lora"]


@dataclass(frozen=True)
class Proposal:
    """All that a version is made from; its digests are computed from this alone."""

    dataset: Dataset
    persona_sha256: str
    base: BaseModel
    recipe: dict[str, Any]
    seed: int
    files: tuple[FileEntry, ...]
    run: Run | None = None
    job: str | None = None

    @property
    def recipe_digest(self) -> str:
        """The recipe's identity."""
        return digest(self.recipe)

    @property
    def spec_digest(self) -> str:
        """What makes two trainings the same training."""
        return spec_digest(self.persona_sha256, self.dataset.sha256, self.base.repo, self.base.revision, self.recipe, self.seed)

    @property
    def manifest(self) -> VersionManifest:
        """What the version's digest covers."""
        return VersionManifest(
            self.files, self.dataset.sha256, self.base.repo, self.base.revision, self.recipe_digest, self.persona_sha256, self.seed
        )


def spec_digest(persona: str, dataset: str, base_repo: str, base_revision: str | None, recipe: dict[str, Any], seed: int) -> str:
    """The natural key of a training: persona, dataset, base at its revision, recipe and seed."""
    spec = {
        "persona": persona,
        "dataset": dataset,
        "base": {"repo": base_repo, "revision": base_revision},
        "recipe": digest(recipe),
        "seed": seed,
    }
    return digest({"format": "training-spec/1", **spec})


def find_same(session: Session, advisor: Advisor, key: str) -> AdapterVersion | None:
    """The version of the advisor with this natural key: a ready one before any other, the newest first."""
    same = select(AdapterVersion).where(AdapterVersion.advisor_id == advisor.id, AdapterVersion.spec_digest == key)
    ready_first = case((AdapterVersion.state == "ready", 0), else_=1)
    return session.scalars(same.order_by(ready_first, AdapterVersion.number.desc()).limit(1)).one_or_none()


def of_job(session: Session, job: str) -> AdapterVersion | None:
    """The version that a durable job made or is making, in whatever state."""
    return session.scalars(select(AdapterVersion).where(AdapterVersion.job == job)).one_or_none()


def begin(session: Session, advisor: Advisor, proposal: Proposal, *, actor: str, force: bool = False) -> AdapterVersion:
    """Give the version a number and record its expected files. The caller holds the advisor's row locked (`advisors.get(lock=True)`).

    Returns a ready version where the same training is registered already, also with `force` where the same job registered it: a job that is taken up again
    registers once. Raises Conflict where that one was withdrawn, Invalid for bad file names.
    """
    kind = check_file_names(proposal.files)
    same = find_same(session, advisor, proposal.spec_digest)
    if proposal.job is not None and (own := of_job(session, proposal.job)) is not None:
        same, force = own, False
    if same is not None and not force:
        if same.state == "ready":
            return same
        refuse_withdrawn(advisor, same)
    if same is not None and same.state == "pending":
        return _take_over(session, same, proposal, kind, actor)
    version = AdapterVersion(
        advisor_id=advisor.id, number=advisor.next_version, state="pending", created_at=events.now(), **_columns(proposal, kind, actor)
    )
    advisor.next_version += 1
    session.add(version)
    session.flush()
    _insert_files(session, version, proposal.files)
    return version


def refuse_withdrawn(advisor: Advisor, same: AdapterVersion) -> None:
    """Raise Conflict where the same training was withdrawn."""
    if same.state == "withdrawn":
        raise Conflict(
            f"The same training is {advisor.slug}@{same.number}, which was withdrawn: {same.withdrawn_reason}",
            hint="Pass --force to register it again under a new number.",
        )


def _columns(proposal: Proposal, kind: str, actor: str) -> dict[str, Any]:
    """Every column that a proposal decides. What stays with the row is its advisor, its number and the moment it was begun."""
    return {
        "kind": kind,
        "job": proposal.job,
        "digest": proposal.manifest.digest,
        "spec_digest": proposal.spec_digest,
        "dataset_id": proposal.dataset.id,
        "base_model_id": proposal.base.id,
        "persona_id": proposal.dataset.persona_id,
        "run_id": proposal.run.id if proposal.run else None,
        "recipe": proposal.recipe,
        "recipe_digest": proposal.recipe_digest,
        "seed": proposal.seed,
        "created_by": actor,
    }


def _take_over(session: Session, version: AdapterVersion, proposal: Proposal, kind: str, actor: str) -> AdapterVersion:
    """A rerun adopts the pending row of a run that died: same number, everything else its own."""
    for column, value in _columns(proposal, kind, actor).items():
        setattr(version, column, value)
    session.flush()
    session.expire(
        version, ["dataset", "base_model", "persona", "run", "files", "checkpoints"]
    )  # what they pointed to may be another by now
    session.execute(delete(VersionFile).where(VersionFile.version_id == version.id))
    session.execute(delete(VersionCheckpoint).where(VersionCheckpoint.version_id == version.id))
    _insert_files(session, version, proposal.files)
    return version


def _insert_files(session: Session, version: AdapterVersion, files: Sequence[FileEntry]) -> None:
    rows = [{"version_id": version.id, "path": f.path, "sha256": f.sha256, "size": f.size} for f in files]
    session.execute(insert(VersionFile), rows)


def check_file_names(files: Iterable[FileEntry]) -> str:
    """The kind of version that files of these names make: lora or full. Raises Invalid where they make neither."""
    paths = [f.path for f in files]
    kind = "full" if set(paths) & set(FILES_OF_KIND["full"]) else "lora"
    wanted = FILES_OF_KIND[kind]
    missing = [name for name in wanted if name not in paths]
    strange = [p for p in paths if p not in (*wanted, "README.md")]
    if missing:
        thing = "An adapter" if kind == "lora" else "A full fine-tune"
        raise Invalid(f"{thing} needs {' and '.join(wanted)}; missing: {', '.join(missing)}.")
    if strange or len(set(paths)) != len(paths):
        raise Invalid(
            f"A version holds {', '.join((*wanted, 'README.md'))} and nothing else, each once; found {', '.join(p[:80] for p in paths)!a}."
        )
    return kind


def keep_checkpoints(session: Session, version: AdapterVersion, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record the adapters kept on the way of a pending version's training: step, epoch, learning_rate, sha256, size; their bytes are in the store."""
    session.execute(delete(VersionCheckpoint).where(VersionCheckpoint.version_id == version.id))
    if rows:
        moment = events.now()
        _insert_blobs(session, [{"sha256": row["sha256"], "size": row["size"], "created_at": moment} for row in rows])
        session.execute(insert(VersionCheckpoint), [{**row, "version_id": version.id} for row in rows])


def finish(session: Session, version_id: int, expected_digest: str, *, actor: str, rewritten: FileEntry | None = None) -> AdapterVersion:
    """Make a pending version ready; its bytes are in the store and were verified there. Finishing twice changes nothing.

    `rewritten` is the canonical form of one of its files, which takes the place of the announced one; the version's digest then changes with it, and the
    history keeps the announced one. Raises Conflict where another process took the pending row over with other files.
    """
    query = (
        select(AdapterVersion)
        .where(AdapterVersion.id == version_id)
        .options(joinedload(AdapterVersion.advisor, innerjoin=True), joinedload(AdapterVersion.files))
    )
    version = session.scalars(query.with_for_update(of=AdapterVersion, key_share=True)).unique().one()
    if version.digest != expected_digest and not was_announced(session, version, expected_digest):
        raise Conflict(
            f"Another process registers {version.advisor.slug}@{version.number} with other files.", hint="Run the command again."
        )
    if version.state != "pending":
        return version
    moment = events.now()
    if rewritten is not None:
        file = next(f for f in version.files if f.path == rewritten.path)
        file.sha256, file.size = rewritten.sha256, rewritten.size
        version.digest = manifest_of(version).digest
    _insert_blobs(session, [{"sha256": f.sha256, "size": f.size, "created_at": moment} for f in version.files])
    version.state, version.ready_at = "ready", moment
    session.flush()
    told = {"number": version.number, "digest": version.digest} | ({"announced": expected_digest} if rewritten is not None else {})
    events.append(session, "version:registered", actor, told, version.advisor)
    return version


def manifest_of(version: AdapterVersion) -> VersionManifest:
    """What a recorded version's digest covers."""
    base = version.base_model
    files = tuple(FileEntry(f.path, f.sha256, f.size) for f in version.files)
    return VersionManifest(
        files, version.dataset.sha256, base.repo, base.revision, version.recipe_digest, version.persona.sha256, version.seed
    )


def was_announced(session: Session, version: AdapterVersion, digest: str) -> bool:
    """Whether the version was announced under this digest, and then registered with its config in canonical form."""
    told = events.of_advisor(session, version.advisor, limit=2**31 - 1, tag_prefix="version:registered")
    wanted = {"number": version.number, "digest": version.digest, "announced": digest}
    return any(events.body_of(event) == wanted for event in told)


def _insert_blobs(session: Session, rows: list[dict[str, Any]]) -> None:
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(dialect.insert(Blob).values(rows).on_conflict_do_nothing())


def check_files(store: Verifies, files: Iterable[VersionFile]) -> list[str]:
    """Re-read every file from the store; a sentence per difference that names the file."""
    problems = []
    for file in files:
        found = store.verify(file.sha256)
        if isinstance(found, Problem):
            problems.append(f"{file.path}: {found.sentence}")
        elif found.size != file.size:
            problems.append(f"{file.path}: expected {file.size} bytes, found {found.size}")
    return problems


_LOADED: tuple[ExecutableOption, ...] = (
    joinedload(AdapterVersion.advisor, innerjoin=True),
    joinedload(AdapterVersion.dataset, innerjoin=True),
    joinedload(AdapterVersion.base_model, innerjoin=True),
    joinedload(AdapterVersion.persona, innerjoin=True),
    joinedload(AdapterVersion.run),
    selectinload(AdapterVersion.files),
)


def resolve(session: Session, text: str) -> AdapterVersion:
    """The version a reference names (elena@2, elena@live, sha256:...), with everything around it loaded. NotFound otherwise; pending ones are not seen."""
    ref = parse(text)
    query = _query(ref).where(AdapterVersion.state != "pending").options(*_LOADED).limit(2)
    found = list(session.scalars(query.execution_options(populate_existing=True)))
    if not found:
        raise _not_found(session, ref)
    if len(found) > 1:
        raise Conflict(f"More than one version has the digest {text}.", hint="Name it by its advisor and number.")
    return found[0]


def _query(ref: Ref) -> Select[AdapterVersion]:
    query = select(AdapterVersion)
    match ref:
        case ByDigest(value):
            return query.where(AdapterVersion.digest == value)
        case ByNumber(advisor, number):
            return query.join(AdvisorName, AdvisorName.advisor_id == AdapterVersion.advisor_id).where(
                AdvisorName.name == advisor, AdapterVersion.number == number
            )
        case ByAlias(advisor, alias):
            named = query.join(Alias, Alias.version_id == AdapterVersion.id).join(AdvisorName, AdvisorName.advisor_id == Alias.advisor_id)
            return named.where(AdvisorName.name == advisor, Alias.name == alias)


def _not_found(session: Session, ref: Ref) -> NotFound:
    if isinstance(ref, ByDigest):
        return NotFound(f"No version has the digest {ref.digest}.")
    known = session.scalar(select(AdvisorName.name).where(AdvisorName.name == ref.advisor))
    if known is None:
        close = nearest(ref.advisor, session.scalars(select(AdvisorName.name).limit(5000)))
        return NotFound(f"No advisor answers to '{ref.advisor}'.", hint=f"Did you mean '{close}'?" if close else None)
    if isinstance(ref, ByNumber):
        return NotFound(f"'{ref.advisor}' has no version {ref.number}.", hint=f"List them: registry versions {ref.advisor}")
    return NotFound(
        f"'{ref.advisor}' has no version under the alias '{ref.alias}'.",
        hint=f"Promote one: registry promote {ref.advisor}@1 --alias {ref.alias}",
    )


def begun(session: Session, advisor: Advisor, number: int) -> AdapterVersion:
    """A version in whatever state, with its files and base: for the one who registers it. NotFound otherwise."""
    query = select(AdapterVersion).where(AdapterVersion.advisor_id == advisor.id, AdapterVersion.number == number).options(*_LOADED)
    found = session.scalars(query).one_or_none()
    if found is None:
        raise NotFound(f"'{advisor.slug}' has no version {number}, and none is being registered under that number.")
    return found


def page(session: Session, advisor: Advisor, *, before: int | None = None, limit: int = 50) -> list[AdapterVersion]:
    """Versions, newest first, from the one before number `before`; pending ones are left out."""
    query = select(AdapterVersion).where(AdapterVersion.advisor_id == advisor.id, AdapterVersion.state != "pending").options(*_LOADED)
    if before is not None:
        query = query.where(AdapterVersion.number < before)
    return list(session.scalars(query.order_by(AdapterVersion.number.desc()).limit(limit)))


def aliases_of(session: Session, advisor: Advisor) -> list[Alias]:
    """The advisor's aliases by name, each with its version loaded."""
    return list(
        session.scalars(select(Alias).where(Alias.advisor_id == advisor.id).options(joinedload(Alias.version)).order_by(Alias.name))
    )


def withdraw(session: Session, version: AdapterVersion, *, actor: str, reason: str) -> None:
    """Take a version out of service for good; it stays on record. Raises Conflict while an alias points to it. Doing it twice changes nothing."""
    if version.state == "withdrawn":
        return
    held = list(session.scalars(select(Alias.name).where(Alias.version_id == version.id)))
    if held:
        raise Conflict(
            f"{version.advisor.slug}@{version.number} is {' and '.join(held)}.",
            hint=f"Move the alias first: registry rollback {version.advisor.slug} --alias {held[0]} --reason ..., or registry clear {version.advisor.slug} --alias {held[0]} --reason ...",
        )
    version.state, version.withdrawn_at, version.withdrawn_reason = "withdrawn", events.now(), clean_text(reason, "A reason")
    session.flush()
    events.append(session, "version:withdrawn", actor, {"number": version.number, "reason": version.withdrawn_reason}, version.advisor)
