"""`registry train`: dataset -> adapter -> version, in steps that each leave the catalogue whole.

1. Read what is asked for; resolve base and recipe. The same training that is registered already is returned at once, unless forced.
2. Train in a process of its own, in a work folder named after the training. A result that a killed command left complete there is taken up, not redone.
3. Check the files (registry.adapter_files), write the model card, put the bytes into the store.
4. Register, in one transaction: the version, its scores, its checkpoints and the run's record. Nobody can come between them.

A kill or a full disk before the last step leaves no visible version; the same command then goes on from the training's last saved state. Two such commands
at once wait for each other; on two machines the first to register makes the version, and the other one returns it. A durable job names itself: however
often it is taken up again, it makes one version.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from sqlalchemy.orm import Session

from evaluation.statistics import paired_difference, t_interval
from jobs import model_card
from registry import advisors, bases, datasets, evaluations, runs, versions
from registry.adapter_files import BaseCard, base_card_from_config, check_version_files, full_problems, problems, rewritten_config
from registry.artifacts import ArtifactStore, blob_of
from registry.db import Database
from registry.errors import Conflict, Invalid, Paused, RegistryError
from registry.evaluations import ScoreDraft
from registry.manifest import FileEntry
from registry.models import AdapterVersion, Advisor, Dataset, Run
from registry.verification import verify_dataset
from registry.vocabulary import DEFAULT_SEED
from trainer import borrowed
from trainer.examples import seal
from trainer.spec import CONFIG_FILE, Drive, TrainedAdapter, TrainSpec

if TYPE_CHECKING:
    from trainer.bases import BaseSpec
    from trainer.preflight import Device
    from trainer.recipe import Recipe
    from trainer.spec import Checkpoint

Progress = Callable[[Mapping[str, Any]], None]
# How a spec becomes an adapter: in a process of its own (trainer.process.run_training), or in a warm one that has the base loaded already.
Trains = Callable[[TrainSpec, Progress], TrainedAdapter]
NO_CHANGE = "It is a no-op"  # the gate's words for an adapter that changes no answer
NOTE = "Mean negative log-likelihood per token (nats) of held-out answers; paired by example."


@dataclass(frozen=True)
class Request:
    """What was asked for; None means 'choose the default'."""

    advisor: str
    dataset: str | None = None
    base: str | None = None
    recipe: Mapping[str, Any] | None = None
    seed: int = DEFAULT_SEED
    force: bool = False
    job: str | None = None  # the durable job on whose behalf this is; it makes one version, however often it is taken up
    drive: Drive = field(default_factory=Drive)


@dataclass(frozen=True)
class Plan:
    """What a training would do, decided before anything heavy is loaded."""

    advisor: str
    dataset: str
    examples: int
    heldout: int
    base: "BaseSpec"
    recipe: "Recipe"
    seed: int
    device: str
    spec_digest: str
    existing: int | None
    hardware: "Device | None" = None  # the GPUs it trains on; None: the CPU


@dataclass(frozen=True)
class Trained:
    """The version, and whether this call made it."""

    version: AdapterVersion
    created: bool


def plan(db: Database, home: Path, request: Request, on_event: Progress | None = None) -> Plan:
    """Decide advisor, dataset, base, recipe and device. Raises what those raise; trains nothing, but makes the built-in base where it is missing."""
    from trainer.bases import resolve_base
    from trainer.estimate import LEAST_TOKENS
    from trainer.preflight import choose_default_base, detect_device, require_fit
    from trainer.recipe import make_recipe

    with db.read() as session:  # the cheap checks first: a misspelt advisor must not wait for a base to be built
        advisor = advisors.get_active(session, request.advisor)
        dataset = _dataset(session, advisor, request.dataset)
        persona = dataset.persona.sha256
    device = detect_device()
    named = request.base or choose_default_base(device)
    base = resolve_base(named, home, on_event=on_event, folders=request.job is None)  # an order's base comes from elsewhere
    recipe = make_recipe(base, device, request.recipe or {})
    key = versions.spec_digest(persona, dataset.sha256, base.repo, base.revision, recipe.as_json(), request.seed)
    existing = _registered(db, advisor, key, force=request.force)
    hardware = device if recipe.device == "cuda" else None
    require_fit(recipe, base, hardware, LEAST_TOKENS)  # what not even the shortest examples fit; the training asks again with the longest
    words = hardware.words if hardware else "CPU"
    return Plan(
        advisor.slug,
        dataset.sha256,
        dataset.examples_total,
        dataset.heldout_total,
        base,
        recipe,
        request.seed,
        words,
        key,
        existing,
        hardware,
    )


def _registered(db: Database, advisor: Advisor, key: str, *, force: bool) -> int | None:
    """The number of the same training's ready version, if there is one. Raises Conflict where it was withdrawn, unless forced."""
    with db.read() as session:
        same = versions.find_same(session, advisor, key)
    if same is not None and not force:
        versions.refuse_withdrawn(advisor, same)  # before an hour of training, not after it
    return same.number if same is not None and same.state == "ready" else None


def _dataset(session: Session, advisor: Advisor, ref: str | None) -> Dataset:
    return datasets.get(session, advisor, ref) if ref else datasets.latest(session, advisor)


def train(
    db: Database, store: ArtifactStore, home: Path, request: Request, *, actor: str, on_event: Progress, trains: Trains | None = None
) -> Trained:
    """Train and register. Raises every RegistryError of the steps; then no version is visible and the run says why."""
    made = _made_by(db, request.job)
    if made is not None:
        return made
    with borrowed.in_use(home):  # no cleanup meanwhile, from the first file that is fetched
        return _train(db, store, home, request, actor, on_event, trains)


def _train(
    db: Database, store: ArtifactStore, home: Path, request: Request, actor: str, on_event: Progress, trains: Trains | None
) -> Trained:
    decided = plan(db, home, request, on_event)
    if decided.existing is not None and not request.force:
        return _existing(db, decided.advisor, decided.existing)
    work = home / "work" / decided.spec_digest.removeprefix("sha256:")[:24]
    try:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds the advisor's conversations
        work.chmod(0o700)
        borrowed.note_advisor(home, decided.advisor)  # `registry cleanup` makes sure that nothing of it lies only here
    except OSError as error:
        raise Invalid(
            f"The work folder {work} cannot be made: {error.strerror}.", hint="Check REGISTRY_HOME and the space on its disk."
        ) from error
    with alone(FileLock(work.with_suffix(".lock")), on_event):
        if not request.force:
            with db.read() as session:
                advisor = advisors.get_active(session, decided.advisor)
            number = _registered(db, advisor, decided.spec_digest, force=False)
            if number is not None:  # another command finished the same training while this one waited
                return _existing(db, decided.advisor, number)
        return _train_and_register(db, store, decided, work, request, actor, on_event, trains, runs.worker_of(home, request.job))


@contextmanager
def alone(lock: FileLock, on_event: Progress) -> Iterator[None]:
    """Hold a training's lock. Whoever waits for another is told once a second, and may raise in `on_event` to give up."""
    while True:
        try:
            lock.acquire(timeout=1.0)
            break
        except Timeout:
            on_event({"event": "phase", "name": "wait for the same training elsewhere"})
    try:
        yield
    finally:
        lock.release()


def _made_by(db: Database, job: str | None) -> Trained | None:
    """The version that an earlier attempt of the same job finished."""
    with db.read() as session:
        version = versions.of_job(session, job) if job is not None else None
        if version is None or version.state == "pending":
            return None
        return Trained(versions.resolve(session, f"{version.advisor.slug}@{version.number}"), created=True)


def _existing(db: Database, advisor: str, number: int) -> Trained:
    with db.read() as session:
        return Trained(versions.resolve(session, f"{advisor}@{number}"), created=False)


def _train_and_register(
    db: Database,
    store: ArtifactStore,
    decided: Plan,
    work: Path,
    request: Request,
    actor: str,
    on_event: Progress,
    trains: Trains | None,
    worker: dict[str, Any],
) -> Trained:
    spec = TrainSpec(decided.recipe, decided.base, decided.seed, work / "dataset", work / "out", request.drive)
    with db.transaction() as session:
        # This process holds the training's lock, so whatever still counts as running here was killed.
        runs.end_dead(session, _recorded(decided), worker)
        run_id = runs.start(session, advisors.get(session, decided.advisor), "training", _recorded(decided), actor=actor, worker=worker).id
    try:
        adapter = _left_over(spec) if not request.force else None
        if adapter is None:
            adapter = _run(db, decided, spec, on_event, trains)
        on_event({"event": "phase", "name": "register"})
        made = _register(db, store, decided, adapter, run_id, actor, request)
    except BaseException as error:  # also an interrupt: the run's record must say how it ended
        with suppress(RegistryError), db.transaction() as session:
            words = f"stopped before its end, to be gone on with: {error.message}" if isinstance(error, Paused) else str(error)
            runs.fail(session, run_id, words or type(error).__name__)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return made


def _recorded(decided: Plan) -> dict[str, Any]:
    base = {"repo": decided.base.repo, "revision": decided.base.revision}
    return {"dataset": decided.dataset, "base": base, "recipe": decided.recipe.as_json(), "seed": decided.seed, "key": decided.spec_digest}


def _left_over(spec: TrainSpec) -> TrainedAdapter | None:
    """The complete result of a command that was killed between training and registering, if its files still have their digests."""
    try:
        adapter = TrainedAdapter.load(spec.out_dir)
    except (RegistryError, OSError, ValueError, KeyError):
        return None
    wanted = [(adapter.folder, f) for f in adapter.files] + [(adapter.checkpoints_folder, c.file) for c in adapter.checkpoints]
    intact = all((folder / f.path).is_file() and _entry(folder / f.path) == f for folder, f in wanted)
    return adapter if intact else None


def _entry(path: Path) -> FileEntry:
    blob = blob_of(path)
    return FileEntry(path.name, blob.digest, blob.size)


def _run(db: Database, decided: Plan, spec: TrainSpec, on_event: Progress, trains: Trains | None) -> TrainedAdapter:
    from trainer.process import run_training

    try:
        export_dataset(db, decided.advisor, decided.dataset, spec.dataset_dir)
    except OSError as error:
        raise Invalid(
            f"The work folder {spec.dataset_dir} cannot be written: {error.strerror}.", hint="Free some space, then run the command again."
        ) from error
    return (trains or run_training)(spec, on_event)


def export_dataset(db: Database, advisor: str, sha256: str, folder: Path) -> None:
    """Write a dataset as the trainer reads it: train.jsonl, heldout.jsonl, and manifest.json last. Raises OSError.

    Every digest is computed again first: raises Conflict where a row of the catalogue is not what the dataset's digest stands for.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (
        db.read() as session,
        (folder / "train.jsonl").open("w", encoding="utf-8") as train_file,
        (folder / "heldout.jsonl").open("w", encoding="utf-8") as heldout,
    ):
        dataset = datasets.get(session, advisors.get(session, advisor), sha256)
        _refuse_changed(session, dataset, advisor)
        for place, example in datasets.all_examples(session, dataset):
            row = {"sha256": example.sha256, "messages": example.messages}
            (train_file if place.split == "train" else heldout).write(json.dumps(row, ensure_ascii=False) + "\n")
    seal(folder, sha256)


def _refuse_changed(session: Session, dataset: Dataset, advisor: str) -> None:
    faults = verify_dataset(session, dataset)
    if faults:
        raise Conflict(
            f"The dataset {dataset.sha256} of '{advisor}' is not what its digest stands for: {'; '.join(faults[:5])}.",
            hint="A row of the catalogue was changed. Put a backup back, or import the data again and train on that.",
        )


def _register(
    db: Database, store: ArtifactStore, decided: Plan, adapter: TrainedAdapter, run_id: int, actor: str, request: Request
) -> Trained:
    """Bytes into the store, then the version with all of its record. Another process may have registered the same training meanwhile; then that one holds."""
    base = adapter.base
    names = _gate(adapter, base)
    with db.transaction() as session:
        registered = bases.ensure(
            session, bases.BaseFacts(base.repo, base.revision, base.kind, base.weights_sha256, dict(base.config or {}) or None, base.note)
        )
        owner = advisors.get(session, decided.advisor)
        dataset = datasets.get(session, owner, decided.dataset)
        card = model_card.render(session, owner, dataset, base.repo, base.revision, base.note, decided.recipe.as_json())
    (adapter.folder / "README.md").write_text(card, encoding="utf-8")
    files = tuple(_stored(store, adapter.folder / name) for name in (*names, "README.md"))
    kept = [_kept(store, adapter, checkpoint) for checkpoint in adapter.checkpoints]
    with db.transaction() as session:
        owner = advisors.get(session, decided.advisor, lock=True)
        dataset = datasets.get(session, owner, decided.dataset)
        run = session.get_one(Run, run_id)
        proposal = versions.Proposal(
            dataset, dataset.persona.sha256, registered, decided.recipe.as_json(), decided.seed, files, run, request.job
        )
        version = versions.begin(session, owner, proposal, actor=actor, force=request.force)
        created = version.state == "pending"
        if created:
            _write_record(session, version, adapter, kept, run_id, actor)
            versions.finish(session, version.id, proposal.manifest.digest, actor=actor)
        else:
            _end_beside(session, version, owner, adapter, run_id)
        number = version.number
    with db.read() as session:
        return Trained(versions.resolve(session, f"{decided.advisor}@{number}"), created)


def _write_record(
    session: Session, version: AdapterVersion, adapter: TrainedAdapter, kept: list[dict[str, Any]], run_id: int, actor: str
) -> None:
    """The run's record, the adapters on the way and the scores of a version that nobody sees yet."""
    _succeed(session, adapter, run_id, {})
    versions.keep_checkpoints(session, version, kept)
    scores = heldout_scores(adapter.metrics.get("heldout") or {})
    if scores:
        evaluations.add(session, version, evaluations.HELDOUT, scores, actor=actor, run_id=run_id, note=NOTE)


def _end_beside(session: Session, version: AdapterVersion, advisor: Advisor, adapter: TrainedAdapter, run_id: int) -> None:
    """The run of a training whose version is there already, made by another process: the record of a good run that made none."""
    bits = "the same files" if _same_weights(version, adapter) else "other files, as GPUs may give"
    note = f"the same training was registered meanwhile as {advisor.slug}@{version.number}, with {bits}; this result was not registered"
    _succeed(session, adapter, run_id, {"note": note})


def _same_weights(version: AdapterVersion, adapter: TrainedAdapter) -> bool:
    return {f.sha256 for f in adapter.files} <= {f.sha256 for f in version.files}


def _succeed(session: Session, adapter: TrainedAdapter, run_id: int, more: Mapping[str, Any]) -> None:
    metrics = {**_kept_metrics(adapter), **more}
    runs.succeed(session, run_id, environment=dict(adapter.environment), timings=dict(adapter.timings), metrics=metrics)


def _gate(adapter: TrainedAdapter, base: "BaseSpec") -> tuple[str, ...]:
    """Nothing that the registry would refuse from others is registered by the trainer either. Returns the names of the files that are registered."""
    names = versions.FILES_OF_KIND[versions.check_file_names(adapter.files)]
    card = base_card_from_config(base.config or {}, base.repo, base.revision, base.weights_sha256) or BaseCard(base.repo, base.revision)
    _gate_checkpoints(adapter, names, card)
    paths = {name: adapter.folder / name for name in names}
    facts = check_version_files(paths, card)
    if rewritten_config(paths, facts) is not None:
        raise Invalid(
            f"The training wrote {facts.config_file} in another form than the canonical one.", hint="Train again with this version."
        )
    return names


def _gate_checkpoints(adapter: TrainedAdapter, names: tuple[str, ...], card: BaseCard) -> None:
    """The adapters on the way pass the same gate, each with the version's config; only one that changes nothing yet may be kept, as a warm-up's first."""
    weights, config = names
    examine = problems if config == CONFIG_FILE else full_problems
    for checkpoint in adapter.checkpoints:
        found = examine({weights: adapter.checkpoints_folder / checkpoint.file.path, config: adapter.folder / config}, card)
        faults = [sentence for sentence in found if NO_CHANGE not in sentence]
        if faults:
            raise Invalid(f"The adapter kept after step {checkpoint.step} is refused: {' '.join(faults)}", hint="Train again.")


def _kept(store: ArtifactStore, adapter: TrainedAdapter, checkpoint: "Checkpoint") -> dict[str, Any]:
    """A checkpoint's bytes into the store, and its row."""
    entry = _stored(store, adapter.checkpoints_folder / checkpoint.file.path)
    return {
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "learning_rate": checkpoint.learning_rate,
        "sha256": entry.sha256,
        "size": entry.size,
    }


def _stored(store: ArtifactStore, path: Path) -> FileEntry:
    blob = store.put_file(path)
    return FileEntry(path.name, blob.digest, blob.size)


def _kept_metrics(adapter: TrainedAdapter) -> dict[str, Any]:
    """Everything measured but the per-example losses, whose summary is the scores."""
    return {key: value for key, value in adapter.metrics.items() if key != "heldout"}


def heldout_scores(heldout: Mapping[str, list[Mapping[str, Any]]]) -> list[ScoreDraft]:
    """Loss of adapter and base on the held-out pairs with 95% t-intervals, their paired difference, and perplexity = exp(mean loss).

    `heldout` holds {"adapter": [{"sha256", "loss", "tokens"}], "base": [...]} in the same order; empty where nothing was held out.
    """
    import math

    after = {row["sha256"]: float(row["loss"]) for row in heldout.get("adapter", [])}
    before = {row["sha256"]: float(row["loss"]) for row in heldout.get("base", [])}
    shared = sorted(after.keys() & before.keys())
    if not shared:
        return []
    ours, theirs = [after[k] for k in shared], [before[k] for k in shared]
    drafts = []
    for name, interval in {"adapter": t_interval(ours), "base": t_interval(theirs)}.items():
        drafts.append(ScoreDraft(f"{name}_loss", interval.mean, interval.n, interval.low, interval.high))
        low, high = (
            (math.exp(interval.low), math.exp(interval.high)) if interval.low is not None and interval.high is not None else (None, None)
        )
        drafts.append(ScoreDraft(f"{name}_perplexity", math.exp(interval.mean), interval.n, low, high))
    gain = paired_difference(ours, theirs)
    drafts.append(ScoreDraft("loss_difference", gain.mean, gain.n, gain.low, gain.high))
    return drafts
