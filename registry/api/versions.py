"""Versions: register one in two steps, read them, compare, score, verify and withdraw them.

A registration names its files by digest and gets back which of them are missing; they are uploaded by digest; `finish` lets the whole adapter through
the gate (registry/adapter_files) and makes the version ready. Until then nobody else sees it. A config is registered in its canonical form: where the
announced one differs from it in order and cosmetics alone, as what PEFT writes does, `finish` stores the canonical bytes in its place, answers with the
version's digest over them, and the history keeps the announced one. So a config's digest always is its canonical form's.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Path, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from lineage.diff import diff
from registry import bases, datasets, evaluations, models, runs, verification, versions
from registry.adapter_files import BaseCard, base_card_from_config, check_version_files, rewritten_config
from registry.api import schemas
from registry.api.artifacts import unproved
from registry.api.deps import Actor, Cursor, Inside, Limit, Number, Room, Slug, advisor_for, permission
from registry.api.downloads import blob_response
from registry.api.paging import DEFAULT, after_number, next_link
from registry.api.routes import DOWNLOAD, problems, router
from registry.artifacts import ArtifactStore, Blob
from registry.errors import Conflict, Forbidden, NotFound, Unavailable
from registry.evaluations import ScoreDraft
from registry.manifest import FileEntry
from registry.refs import check_digest

routes = router("versions")
Other = Annotated[int, Path(description="The number of the version to compare with.", ge=1, le=999_999_999, examples=[1])]
FileName = Annotated[str, Path(description="A file of the version.", max_length=200, examples=["adapter_config.json"])]
_TYPES = {".json": "application/json", ".md": "text/markdown; charset=utf-8"}


# ---- Reading --------------------------------------------------------------------------------------------------------------------------------


@routes.get("/advisors/{slug}/versions", summary="List an advisor's versions", responses=problems(401, 403, 404))
def list_versions(
    slug: Slug, inside: Inside, actor: Annotated[Actor, permission("read")], limit: Limit = DEFAULT, cursor: Cursor = None
) -> schemas.Page[schemas.Version]:
    """Versions, the newest first, each with its aliases and newest scores."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        before = None if cursor is None else min(after_number(cursor), 2**31 - 1)
        rows = versions.page(session, advisor, before=before, limit=limit + 1)
        shown = [schemas.Version(**facts) for facts in _facts(session, advisor, rows[:limit])]
    link = next_link(f"/advisors/{advisor.slug}/versions", limit, rows[limit - 1].number if len(rows) > limit else None)
    return schemas.Page(items=shown, next=link)


@routes.get("/advisors/{slug}/versions/{number}", summary="Show a version", responses=problems(401, 403, 404))
def show_version(slug: Slug, number: Number, inside: Inside, actor: Annotated[Actor, permission("read")]) -> schemas.VersionDetail:
    """A version with its recipe, files, scores, kept checkpoints and the facts of its run."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        return _detail(session, advisor, _numbered(session, advisor, number))


def _numbered(session: Session, advisor: models.Advisor, number: int) -> models.AdapterVersion:
    return versions.resolve(session, f"{advisor.slug}@{number}")


def version_view(session: Session, advisor: models.Advisor, version: models.AdapterVersion) -> schemas.Version:
    """A version as lists show it."""
    return schemas.Version(**_facts(session, advisor, [version])[0])


def _detail(session: Session, advisor: models.Advisor, version: models.AdapterVersion) -> schemas.VersionDetail:
    files = [schemas.File(path=f.path, sha256=f.sha256, size=f.size) for f in version.files]
    run = schemas.Run.of(version.run) if version.run is not None else None
    kept = [
        schemas.Checkpoint(step=c.step, epoch=c.epoch, learning_rate=c.learning_rate, sha256=c.sha256, size=c.size)
        for c in version.checkpoints
    ]
    return schemas.VersionDetail(**_facts(session, advisor, [version])[0], recipe=version.recipe, files=files, checkpoints=kept, run=run)


def _facts(session: Session, advisor: models.Advisor, rows: Sequence[models.AdapterVersion]) -> list[dict[str, Any]]:
    """What every view of a version shows; three statements, however many versions there are."""
    ids = [row.id for row in rows]
    pointing: dict[int, list[str]] = {}
    aliases = select(models.Alias.version_id, models.Alias.name).where(models.Alias.version_id.in_(ids)).order_by(models.Alias.name)
    for version_id, alias in session.execute(aliases):
        pointing.setdefault(version_id or 0, []).append(alias)
    scores = evaluations.latest(session, ids) if ids else {}
    return [
        {
            "ref": f"{advisor.slug}@{row.number}",
            "number": row.number,
            "kind": row.kind,
            "state": row.state,
            "digest": row.digest,
            "aliases": pointing.get(row.id, []),
            "dataset": row.dataset.sha256,
            "base": schemas.BaseSummary(repo=row.base_model.repo, revision=row.base_model.revision, kind=row.base_model.kind),
            "persona": row.persona.number,
            "recipe_digest": row.recipe_digest,
            "seed": row.seed,
            "scores": [schemas.Scores.of(evaluation) for evaluation in scores.get(row.id, [])],
            "created_at": row.created_at,
            "created_by": row.created_by,
            "ready_at": row.ready_at,
            "withdrawn_at": row.withdrawn_at,
            "withdrawn_reason": row.withdrawn_reason,
        }
        for row in rows
    ]


@routes.get("/advisors/{slug}/versions/{number}/diff/{other}", summary="Compare two versions", responses=problems(401, 403, 404))
def diff_versions(slug: Slug, number: Number, other: Other, inside: Inside, actor: Annotated[Actor, permission("read")]) -> schemas.Diff:
    """What changed from version `number` to version `other`: recipe, data, sources added and removed, scores."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        return schemas.Diff.of(diff(session, _numbered(session, advisor, number), _numbered(session, advisor, other)))


@routes.get("/advisors/{slug}/versions/{number}/verify", summary="Verify a version", responses=problems(401, 403, 404))
def verify_version(slug: Slug, number: Number, inside: Inside, actor: Annotated[Actor, permission("read")]) -> schemas.Verified:
    """Compute everything again, from documents to examples to dataset to files, and list every difference. It reads every byte, so it takes a while."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        version = _numbered(session, advisor, number)
        found = verification.verify(session, inside.store, version)
        kept = verification.verify_checkpoints(session, inside.store, version)
    return schemas.Verified(ref=f"{advisor.slug}@{number}", holds=not found, differences=found, checkpoint_differences=kept)


@routes.get(
    "/advisors/{slug}/versions/{number}/files/{name}",
    summary="Download a file of a version",
    response_class=Response,
    responses=DOWNLOAD,
)
@routes.head("/advisors/{slug}/versions/{number}/files/{name}", name="head_file", include_in_schema=False)
async def download_file(
    slug: Slug, number: Number, name: FileName, request: Request, inside: Inside, actor: Annotated[Actor, permission("read")]
) -> Response:
    """A file by its name; its ETag is its digest, ranges and conditions are answered."""
    blob = await to_thread.run_sync(_file, inside, actor, slug, number, name)
    media_type = _TYPES.get(FilePath(name).suffix, "application/octet-stream")
    return await blob_response(request, inside.store, blob, filename=name, media_type=media_type)


def _file(inside: Room, actor: Actor, slug: str, number: int, name: str) -> Blob:
    with inside.db.read() as session:
        version = _numbered(session, advisor_for(session, actor, slug), number)
    found = next((file for file in version.files if file.path == name), None)
    if found is None:
        known = ", ".join(file.path for file in version.files)
        raise NotFound(f"{slug}@{number} has no file {name[:100]!a}; it has {known}.")
    return Blob(found.sha256, found.size)


# ---- Registering ----------------------------------------------------------------------------------------------------------------------------


@routes.post(
    "/advisors/{slug}/versions",
    summary="Begin to register a version",
    status_code=201,
    responses={
        200: {"model": schemas.Pending, "description": "The same training is registered or being registered."},
        **problems(401, 403, 404, 409, 410),
    },
)
def begin_version(
    slug: Slug, body: schemas.VersionIn, inside: Inside, actor: Annotated[Actor, permission("write")], response: Response
) -> schemas.Pending:
    """Give the version its number and tell which files are missing in the store. The same persona, data, base, recipe and seed give the version that is there."""
    files = tuple(FileEntry(f.path, check_digest(f.sha256), f.size) for f in body.files)
    with inside.db.read() as session:
        dataset, persona, base = _made_from(session, advisor_for(session, actor, slug, active=True), body)
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True, active=True)
        run = _run(session, advisor, body, dataset, actor)
        proposal = versions.Proposal(dataset, persona, base, body.recipe, body.seed, files, run)
        before = advisor.next_version
        version = versions.begin(session, advisor, proposal, actor=actor.name, force=body.force)
        response.status_code = 201 if advisor.next_version > before else 200
        ref, number, state, digest = f"{advisor.slug}@{version.number}", version.number, version.state, version.digest
    missing = [] if state == "ready" else _missing(inside, actor, files)
    return schemas.Pending(ref=ref, number=number, state=state, digest=digest, missing=missing)


def _made_from(session: Session, advisor: models.Advisor, body: schemas.VersionIn) -> tuple[models.Dataset, str, models.BaseModel]:
    """What the version refers to. All of it is immutable, so it is read before the advisor is locked."""
    dataset = datasets.get(session, advisor, body.dataset)
    return dataset, dataset.persona.sha256, bases.get(session, body.base.repo, body.base.revision)


def _run(session: Session, advisor: models.Advisor, body: schemas.VersionIn, dataset: models.Dataset, actor: Actor) -> models.Run | None:
    """A record of the training that happened elsewhere, where the client tells of it."""
    if body.run is None:
        return None
    spec = {"dataset": dataset.sha256, "base": body.base.model_dump(), "recipe": body.recipe, "seed": body.seed}
    return runs.record(
        session,
        advisor,
        "upload",
        spec,
        actor=actor.name,
        environment=body.run.environment,
        timings=body.run.timings,
        metrics=body.run.metrics,
    )


def _missing(inside: Room, actor: Actor, files: Sequence[FileEntry]) -> list[str]:
    """Files to upload. A bound token must send what its advisor does not have, whether the store has it or not: so it learns of no other's files."""
    with inside.db.read() as session:
        unshown = set(unproved(session, actor, [file.sha256 for file in files], {}))
    digests = dict.fromkeys(file.sha256 for file in files)
    return [digest for digest in digests if digest in unshown or inside.store.stat(digest) is None]


@routes.post("/advisors/{slug}/versions/{number}/finish", summary="Finish registering a version", responses=problems(401, 403, 404, 409))
def finish_version(
    slug: Slug, number: Number, body: schemas.Finish, inside: Inside, actor: Annotated[Actor, permission("write")]
) -> schemas.VersionDetail:
    """Check that every file is there and that the adapter or model may enter, then make the version ready. Finishing twice changes nothing.

    Where the config is not in canonical form, the canonical form is registered in its place and the answer has another digest than the announced one.
    """
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        pending = versions.begun(session, advisor, number)
        unshown = unproved(session, actor, [file.sha256 for file in pending.files], body.receipts)
        same = pending.digest == check_digest(body.digest) or versions.was_announced(session, pending, body.digest)
    if not same:
        raise Conflict(f"{advisor.slug}@{number} is being registered with other files.", hint="Begin the registration again.")
    rewritten = None
    if pending.state == "pending":
        if unshown:
            raise Forbidden(
                f"This token must show receipts of its uploads of {', '.join(unshown)}.", hint="PUT /artifacts/{digest} gives them."
            )
        _require_stored(inside.store, pending.files)
        with _laid_out(inside.store, pending.files) as paths:
            facts = check_version_files(paths, _card(pending.base_model))
            config = rewritten_config(paths, facts)
        if config is not None:
            blob = inside.store.put_bytes(config)
            rewritten = FileEntry(facts.config_file, blob.digest, blob.size)
    with inside.db.transaction() as session:
        versions.finish(session, pending.id, body.digest, actor=actor.name, rewritten=rewritten)
    with inside.db.read() as session:
        return _detail(session, advisor, _numbered(session, advisor, number))


def _require_stored(store: ArtifactStore, files: Sequence[models.VersionFile]) -> None:
    found = {file.path: store.stat(file.sha256) for file in files}
    missing = [f"{file.path} ({file.sha256})" for file in files if found[file.path] is None]
    if missing:
        raise Conflict(
            f"These files were not uploaded yet: {', '.join(missing)}.", hint="PUT them to /artifacts/{digest}, then finish again."
        )
    wrong = [
        f"{f.path} was announced with {f.size} bytes and has {blob.size}"
        for f in files
        if (blob := found[f.path]) is not None and blob.size != f.size
    ]
    if wrong:
        raise Conflict(f"{'; '.join(wrong)}.", hint="Begin the registration again with the right sizes.")


@contextlib.contextmanager
def _laid_out(store: ArtifactStore, files: Sequence[models.VersionFile]) -> Iterator[Mapping[str, FilePath]]:
    """The files where the gate can read them: in place where the store has descriptors (Linux), else as copies in a private folder."""
    with contextlib.ExitStack() as stack:
        paths: dict[str, FilePath] = {}
        folder: FilePath | None = None
        for file in files:
            reader = stack.enter_context(store.open_range(file.sha256))
            if reader.fd is not None and sys.platform == "linux":
                paths[file.path] = FilePath(f"/proc/self/fd/{reader.fd}")
                continue
            folder = folder or FilePath(stack.enter_context(tempfile.TemporaryDirectory(prefix="registry-gate-")))
            paths[file.path] = folder / file.sha256.removeprefix("sha256:")
            _copy(store, file.sha256, paths[file.path])
        yield paths


def _copy(store: ArtifactStore, digest: str, target: FilePath) -> None:
    try:
        store.get_file(digest, target)
    except OSError as error:
        raise Unavailable(
            f"There is no room to check the upload ({error.strerror}).", hint="Free some disk space, then finish again."
        ) from error


def _card(base: models.BaseModel) -> BaseCard:
    """What the gate compares the files with: the base's shapes where its config is recorded, its name in any case."""
    card = base_card_from_config(base.config, base.repo, base.revision, base.weights_sha256) if base.config is not None else None
    return card or BaseCard(base.repo, base.revision, weights_sha256=base.weights_sha256)


# ---- Scores and withdrawal ------------------------------------------------------------------------------------------------------------------


@routes.get("/advisors/{slug}/versions/{number}/scores", summary="Read a version's scores", responses=problems(401, 403, 404))
def list_scores(slug: Slug, number: Number, inside: Inside, actor: Annotated[Actor, permission("read")]) -> list[schemas.Scores]:
    """The newest scores of every suite."""
    with inside.db.read() as session:
        version = _numbered(session, advisor_for(session, actor, slug), number)
        return [schemas.Scores.of(row) for row in evaluations.latest(session, [version.id]).get(version.id, [])]


@routes.post(
    "/advisors/{slug}/versions/{number}/scores",
    summary="Record scores of a version",
    status_code=201,
    responses={200: {"model": schemas.Scores, "description": "Just these are the suite's newest."}, **problems(401, 403, 404, 410)},
)
def add_scores(
    slug: Slug, number: Number, body: schemas.ScoresIn, inside: Inside, actor: Annotated[Actor, permission("write")], response: Response
) -> schemas.Scores:
    """Record a suite of scores. Scores are added, never changed; the newest of a suite is shown."""
    drafts = [ScoreDraft(s.metric, s.value, s.n, s.low, s.high) for s in body.scores]
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True, active=True)
        version = _numbered(session, advisor, number)
        present = next((e for e in evaluations.latest(session, [version.id]).get(version.id, []) if e.suite == body.suite), None)
        if present is not None and _same_scores(present, drafts, body.note):
            response.status_code = 200
            return schemas.Scores.of(present)
        return schemas.Scores.of(evaluations.add(session, version, body.suite, drafts, actor=actor.name, note=body.note))


def _same_scores(present: models.Evaluation, drafts: Sequence[ScoreDraft], note: str | None) -> bool:
    recorded = {ScoreDraft(s.metric, s.value, s.n, s.low, s.high) for s in present.scores}
    return recorded == set(drafts) and (present.note or None) == (note or None)


@routes.post("/advisors/{slug}/versions/{number}/withdraw", summary="Withdraw a version", responses=problems(401, 403, 404, 409))
def withdraw_version(
    slug: Slug, number: Number, body: schemas.Reason, inside: Inside, actor: Annotated[Actor, permission("promote")]
) -> schemas.VersionDetail:
    """Take a version out of service for good; it stays on record. Refused while an alias points to it; doing it twice changes nothing."""
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True)
        version = _numbered(session, advisor, number)
        versions.withdraw(session, version, actor=actor.name, reason=body.reason)
        return _detail(session, advisor, version)
