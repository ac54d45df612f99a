"""`registry reproduce elena@3`: the same training once more, from the record alone, and a plain word whether the same came out.

1. Read the record and check it against its digests; what cannot be repeated is refused with the reason, before anything is trained.
2. Say which class is promised: bitwise on a CPU (the same files, byte for byte), statistical on a GPU (held-out loss inside the recorded 95% interval), where
   kernels add up in another order from run to run. That interval is over the held-out examples, not over runs: where it holds the untrained base's loss too,
   a repeat that learned nothing would pass, and so nothing is promised.
3. Train in a folder of its own, and compare: files, adapters kept on the way, held-out loss; where bits differ, also what differs in the environment.
4. Record a run of kind evaluation and an event. Nothing else of the catalogue changes, and no file is stored.

What it does not know: whether another result is the fault of the record or of the machine; it lists what is different and leaves the judgement to people.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock
from sqlalchemy.orm import Session

from jobs.train import Progress, Trains, alone, export_dataset, heldout_scores
from registry import advisors, evaluations, events, runs, versions
from registry.db import Database
from registry.errors import Conflict, Invalid, Paused, RegistryError
from registry.models import AdapterVersion, Run, Score
from registry.verification import verify_record
from trainer import borrowed
from trainer.recipe import RECIPE_FORMAT, Recipe
from trainer.spec import Drive, TrainedAdapter, TrainSpec

if TYPE_CHECKING:
    from trainer.bases import BaseSpec

FORMAT = "reproduction/1"
Class = Literal["bitwise", "statistical"]
LOSS, BASE_LOSS = "adapter_loss", "base_loss"
# Facts of an environment that do not explain another result: what is promised, the hash seed (adapters are byte-equal under any), and what was measured.
_WITHOUT_EFFECT = frozenset({"reproducibility", "python_hash_seed", "training_seconds", "peak_memory_bytes", "pip_freeze_sha256"})
_FROZEN = "pip_freeze"  # every distribution as name==version


@dataclass(frozen=True)
class Compared:
    """One thing that was compared. `counts` is false for what is only told: a GPU's bits were not promised."""

    what: str
    expected: Any
    found: Any
    same: bool
    counts: bool = True


@dataclass(frozen=True)
class Difference:
    """A fact of the environment that is another than the recorded one; None where it was not recorded or is not there."""

    what: str
    recorded: Any
    here: Any


@dataclass(frozen=True)
class Reproduced:
    """What came of a repeat: the class promised, whether it held, each comparison, what differs in the environment, and the run that records it."""

    ref: str
    promised: Class
    same: bool
    compared: tuple[Compared, ...]
    differences: tuple[Difference, ...]
    run: int
    seconds: float

    @property
    def expected(self) -> dict[str, Any]:
        """What the record says, by name."""
        return {c.what: c.expected for c in self.compared}

    @property
    def found(self) -> dict[str, Any]:
        """What the repeat gave, by name."""
        return {c.what: c.found for c in self.compared}

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "ref": self.ref,
            "class": self.promised,
            "reproduced": self.same,
            "compared": [asdict(c) for c in self.compared],
            "environment": [asdict(d) for d in self.differences],
            "run": self.run,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Recorded:
    """What a version's record says of its training; everything that a repeat starts from and is held against."""

    ref: str
    advisor: str
    number: int
    digest: str
    key: str
    dataset: str
    base: "RecordedBase"
    recipe: Recipe
    seed: int
    files: Mapping[str, str]
    checkpoints: Mapping[int, str]
    loss: tuple[float, float, float, int] | None  # value, low, high, n
    environment: Mapping[str, Any]
    base_loss: float | None = None  # of the untrained base on the same held-out examples

    @property
    def promised(self) -> Class:
        """The class that the recipe's device allows."""
        return "bitwise" if self.recipe.device == "cpu" else "statistical"


@dataclass(frozen=True)
class RecordedBase:
    """The base as the catalogue names it."""

    kind: str
    repo: str
    revision: str | None
    weights_sha256: str | None


def reproduce(
    db: Database,
    home: Path,
    ref: str,
    *,
    actor: str,
    on_event: Progress,
    base_folder: Path | None = None,
    trains: Trains | None = None,
) -> Reproduced:
    """Train the version `ref` again and compare. `on_event` first gets {"event": "promise", "class", "sentence"}, then the training's events.

    Raises NotFound, Invalid and Conflict where a repeat is not possible, and what a training raises; the run then says why.
    """
    recorded = read(db, ref)
    with borrowed.in_use(home):  # no cleanup meanwhile
        return _reproduce(db, home, recorded, actor, on_event, base_folder, trains)


def _reproduce(
    db: Database, home: Path, recorded: Recorded, actor: str, on_event: Progress, base_folder: Path | None, trains: Trains | None
) -> Reproduced:
    base = find_base(recorded, home, base_folder, on_event)
    _require_promise(recorded)
    on_event({"event": "promise", "class": recorded.promised, "sentence": promise_words(recorded)})
    with _work_folder(home, recorded, on_event) as work:
        spec = TrainSpec(_recipe(recorded), base, recorded.seed, work / "dataset", work / "out", Drive())
        run_id = _begin(db, recorded, actor, runs.worker_of(home))
        began = time.monotonic()
        try:
            adapter = _train(db, recorded, spec, on_event, trains)
        except BaseException as error:  # also an interrupt: the run's record must say how it ended
            _fail(db, run_id, error)
            raise
        return _finish(db, recorded, adapter, run_id, time.monotonic() - began, actor)


# --- the record


def read(db: Database, ref: str) -> Recorded:
    """The record of a version. Raises Invalid where it has nothing to repeat, and Conflict where it does not hold."""
    with db.read() as session:
        version = versions.resolve(session, ref)
        name = f"{version.advisor.slug}@{version.number}"
        run = _training_run(version, name)
        faults = verify_record(session, version)
        if faults:
            raise Conflict(
                f"The record of {name} does not hold, so a repeat from it would prove nothing: {'; '.join(faults[:5])}.",
                hint=f"See all of it: registry verify {name}",
            )
        base = version.base_model
        scores = _heldout(session, version)
        return Recorded(
            ref=name,
            advisor=version.advisor.slug,
            number=version.number,
            digest=version.digest,
            key=version.spec_digest,
            dataset=version.dataset.sha256,
            base=RecordedBase(base.kind, base.repo, base.revision, base.weights_sha256),
            recipe=_recorded_recipe(version, name),
            seed=version.seed,
            files={f.path: f.sha256 for f in version.files if f.path in versions.FILES_OF_KIND[version.kind]},
            checkpoints={c.step: c.sha256 for c in version.checkpoints},
            loss=_loss(scores.get(LOSS)),
            environment=run.environment or {},
            base_loss=scores[BASE_LOSS].value if BASE_LOSS in scores else None,
        )


def _training_run(version: AdapterVersion, name: str) -> Run:
    run = version.run
    if run is None or run.kind != "training":
        raise Invalid(
            f"{name} was uploaded: it was trained elsewhere, and this registry has no record of how, so there is nothing to repeat.",
            hint="Only versions that `registry train` or `registry build` made can be reproduced.",
        )
    return run


def _recorded_recipe(version: AdapterVersion, name: str) -> Recipe:
    found = version.recipe.get("format")
    if found != RECIPE_FORMAT:
        raise Invalid(
            f"{name} was trained by a recipe of the format {str(found)[:40]!a}; this release repeats {RECIPE_FORMAT}.",
            hint="Reproduce it with the release that trained it; `registry show` names the packages.",
        )
    return Recipe.from_json(version.recipe)


def _heldout(session: Session, version: AdapterVersion) -> dict[str, Score]:
    """The newest held-out scores by metric."""
    found = evaluations.latest(session, [version.id]).get(version.id, [])
    return {s.metric: s for e in found if e.suite == evaluations.HELDOUT for s in e.scores}


def _loss(score: Score | None) -> tuple[float, float, float, int] | None:
    return None if score is None or score.low is None or score.high is None else (score.value, score.low, score.high, score.n)


def find_base(recorded: Recorded, home: Path, folder: Path | None, on_event: Progress | None = None) -> "BaseSpec":
    """The recorded base on this machine, under its recorded name: the built-in one, the hub's at its commit, or the given folder.

    Raises Invalid for a folder where none is wanted, for none where one is, and where what is found is not what was recorded.
    """
    from trainer.bases import local_base, resolve_base

    wanted = recorded.base
    if wanted.kind == "local":
        return _local(recorded, folder, local_base)
    if folder is not None:
        raise Invalid(f"The base of {recorded.ref} is {wanted.repo}, which is found without help.", hint="Leave --base away.")
    if wanted.kind == "hub" and wanted.revision is None:
        raise Invalid(f"The record of {recorded.ref} does not say at which revision of {wanted.repo} it was trained.")
    found = resolve_base("tiny" if wanted.kind == "builtin" else f"{wanted.repo}@{wanted.revision}", home, on_event)
    if (found.repo, found.revision) != (wanted.repo, wanted.revision):
        raise Invalid(
            f"{recorded.ref} was trained on {wanted.repo}@{wanted.revision}; this release has {found.repo}@{found.revision}.",
            hint="Reproduce it with the release that trained it.",
        )
    return found


def _local(recorded: Recorded, folder: Path | None, local_base: Any) -> "BaseSpec":
    wanted = recorded.base
    if folder is None:
        raise Invalid(
            f"{recorded.ref} was trained on the local folder {wanted.repo}, and no path is ever recorded.", hint="Give it: --base FOLDER"
        )
    found: BaseSpec = local_base(folder)
    if found.weights_sha256 != wanted.weights_sha256:
        raise Invalid(
            f"The weights in {folder.name!a} are not those that {recorded.ref} was trained on: expected {wanted.weights_sha256}, found {found.weights_sha256}.",
            hint="Give the folder whose weights have the recorded digest.",
        )
    return replace(found, repo=wanted.repo, revision=wanted.revision)  # the folder may have another name by now


def _require_promise(recorded: Recorded) -> None:
    """Raises Invalid where nothing can be promised: a GPU's training without a GPU, or without an interval that tells it from the untrained base."""
    from trainer.preflight import detect_device

    if recorded.promised == "bitwise":
        return
    if recorded.loss is None:
        raise Invalid(
            f"{recorded.ref} was trained on a GPU, where the same bits cannot be promised, and it has no held-out loss with an interval to compare with."
        )
    _, low, high, count = recorded.loss
    if recorded.base_loss is not None and low <= recorded.base_loss <= high:
        raise Invalid(
            f"Whether {recorded.ref} reproduces cannot be told: it was trained on a GPU, and the 95% interval of its held-out loss, {low:.4f} to {high:.4f} on "
            f"{count} examples, holds the untrained base's {recorded.base_loss:.4f} as well, so a repeat that learned nothing would pass.",
            hint="Only more held-out examples make the interval narrower; that takes a training of another dataset.",
        )
    if detect_device() is None:
        raise Invalid(
            f"{recorded.ref} was trained on a GPU ({recorded.environment.get('device', 'unknown')}), and none is found here.",
            hint="Run this on a machine with an NVIDIA GPU.",
        )


def promise_words(recorded: Recorded) -> str:
    """What is promised, as a sentence, with the packages that already make it doubtful."""
    if recorded.promised == "statistical" and recorded.loss is not None:
        value, low, high, count = recorded.loss
        return (
            "statistical: on a GPU sums are added up in another order from run to run. The held-out loss should lie in the recorded 95% interval, "
            f"{low:.4f} to {high:.4f} (it was {value:.4f} on {count} examples). That interval says how far the mean would move with other held-out examples, not "
            "how far it moves from run to run."
        )
    words = "bitwise: on a CPU the same training gives the same files, byte for byte, with the same packages on the same kind of processor."
    other = package_differences(recorded.environment)
    listed = ", ".join(f"{d.what.removeprefix('packages.')} {d.recorded or 'none'} then, {d.here or 'none'} here" for d in other[:5])
    return f"{words} Not the same here: {listed}; other bits would be no surprise." if other else words


# --- the training


@contextmanager
def _work_folder(home: Path, recorded: Recorded, on_event: Progress) -> Iterator[Path]:
    """A folder of this version's reproduction alone; two at once wait for each other. A paused one stays, so that it is gone on with."""
    work = home / "work" / f"reproduce-{recorded.digest.removeprefix('sha256:')[:24]}"
    try:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds the advisor's conversations
    except OSError as error:
        raise _unwritable(work, error) from error
    with alone(FileLock(work.with_suffix(".lock")), on_event):
        yield work
        shutil.rmtree(work, ignore_errors=True)


def _unwritable(work: Path, error: OSError) -> Invalid:
    return Invalid(
        f"The work folder {work} cannot be written: {error.strerror}.",
        hint="Check REGISTRY_HOME and the space on its disk, then run it again.",
    )


def _recipe(recorded: Recorded) -> Recipe:
    """The recorded recipe; where it left the number of threads to the machine, that machine's number, which is a part of the bits."""
    threads = recorded.environment.get("threads")
    if recorded.recipe.threads is None and recorded.promised == "bitwise" and isinstance(threads, int) and threads >= 1:
        return recorded.recipe.with_changes(threads=threads)
    return recorded.recipe


def _train(db: Database, recorded: Recorded, spec: TrainSpec, on_event: Progress, trains: Trains | None) -> TrainedAdapter:
    from trainer.process import run_training

    try:
        export_dataset(db, recorded.advisor, recorded.dataset, spec.dataset_dir)
    except OSError as error:
        raise _unwritable(spec.dataset_dir, error) from error
    return (trains or run_training)(spec, on_event)


def _asked(recorded: Recorded) -> dict[str, Any]:
    """The spec of the run that records a reproduction."""
    return {"format": FORMAT, "number": recorded.number, "digest": recorded.digest, "key": recorded.key, "class": recorded.promised}


def _begin(db: Database, recorded: Recorded, actor: str, worker: dict[str, Any]) -> int:
    with db.transaction() as session:
        runs.end_dead(session, _asked(recorded), worker)  # this process holds the lock, so whatever still counts as running here was killed
        advisor = advisors.get(session, recorded.advisor)
        return runs.start(session, advisor, "evaluation", _asked(recorded), actor=actor, worker=worker).id


def _fail(db: Database, run_id: int, error: BaseException) -> None:
    with suppress(RegistryError), db.transaction() as session:
        words = f"stopped before its end, to be gone on with: {error.message}" if isinstance(error, Paused) else str(error)
        runs.fail(session, run_id, words or type(error).__name__)


def _finish(db: Database, recorded: Recorded, adapter: TrainedAdapter, run_id: int, seconds: float, actor: str) -> Reproduced:
    compared = compare(recorded, adapter)
    differences = environment_differences(recorded.environment, adapter.environment)
    done = Reproduced(recorded.ref, recorded.promised, all(c.same for c in compared if c.counts), compared, differences, run_id, seconds)
    told = {k: v for k, v in done.as_json().items() if k in {"class", "reproduced", "compared", "environment"}}
    with db.transaction() as session:
        runs.succeed(session, run_id, environment=dict(adapter.environment), timings=dict(adapter.timings), metrics=told)
        tag = "version:reproduced" if done.same else "version:not_reproduced"
        body = {"number": recorded.number, "class": done.promised, "run": run_id}
        events.append(session, tag, actor, body, advisors.get(session, recorded.advisor))
    return done


# --- the comparison


def compare(recorded: Recorded, adapter: TrainedAdapter) -> tuple[Compared, ...]:
    """Every comparison of a repeat with its record. Bits count where they were promised, the held-out loss where an interval was."""
    bits = recorded.promised == "bitwise"
    here = {f.path: f.sha256 for f in adapter.files}
    kept = {c.step: c.file.sha256 for c in adapter.checkpoints}
    rows = [_same(name, sha256, here.get(name), counts=bits) for name, sha256 in sorted(recorded.files.items())]
    steps = sorted(recorded.checkpoints.keys() | kept.keys())
    rows += [_same(f"checkpoint at step {n}", recorded.checkpoints.get(n), kept.get(n), counts=bits) for n in steps]
    return (*rows, *_compare_loss(recorded, adapter, counts=not bits))


def _same(what: str, expected: Any, found: Any, *, counts: bool) -> Compared:
    return Compared(what, expected, found, expected == found, counts)


def _compare_loss(recorded: Recorded, adapter: TrainedAdapter, *, counts: bool) -> Iterator[Compared]:
    """The held-out loss against its recorded interval; nothing where none was recorded."""
    if recorded.loss is None:
        return
    value, low, high, _ = recorded.loss
    found = next((s.value for s in heldout_scores(adapter.metrics.get("heldout") or {}) if s.metric == LOSS), None)
    inside = found is not None and low <= found <= high
    yield Compared("held-out loss", {"value": value, "low": low, "high": high}, found, inside, counts)


def environment_differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Every fact of two environments that is not the same, by its name ("packages.torch", "code.commit"), sorted; other distributions as one fact."""
    then, now = _flat(recorded), _flat(here)
    names = sorted((then.keys() | now.keys()) - _WITHOUT_EFFECT - {_FROZEN})
    found = [Difference(name, then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)]
    return (*found, *_other_distributions(then, now))


def _other_distributions(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Distributions besides the named packages: those of which another version, or none, is installed."""
    before, after = (dict(line.split("==", 1) for line in facts.get(_FROZEN) or () if "==" in line) for facts in (then, now))
    if not before or not after:
        return []
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name) and f"packages.{name}" not in now)
    words = [", ".join(f"{name} {side.get(name, 'none')}" for name in changed) for side in (before, after)]
    return [Difference("other distributions", *words)] if changed else []


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def package_differences(recorded: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The recorded packages of which another version is installed here. Loads none of them."""
    then = recorded.get("packages") or {}
    return environment_differences({"packages": then}, {"packages": {name: _installed(name) for name in then}})


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
