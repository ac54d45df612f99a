"""Trainings once more: the same one to see whether the same comes out, and many sizes of one to see what they cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.frame import Json, Ref, app, open_catalogue, print_json, table
from commands.versions import progress, recipe_settings
from registry.errors import Invalid

if TYPE_CHECKING:
    from jobs.benchmark import Benchmarked
    from jobs.reproduce import Reproduced


@app.command()
def reproduce(
    ref: Ref,
    base: Annotated[
        Path | None,
        typer.Option(help="The folder of the base, for a version trained on a local folder; its weights must have the recorded digest."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a version again from its record, and say whether the same came out: bitwise on a CPU, statistically on a GPU. Exit code 1 where not."""
    from jobs.reproduce import reproduce as run

    with open_catalogue() as opened, progress(quiet=as_json) as draw:

        def on_event(event: Mapping[str, Any]) -> None:
            if event.get("event") != "promise":
                draw(event)
            elif not as_json:
                print(f"Promised: {event['sentence']}", flush=True)

        done = run(opened.db, opened.settings.home, ref, actor=opened.actor, on_event=on_event, base_folder=base)
    if as_json:
        print_json(done.as_json())
    else:
        _print_reproduced(done)
    if not done.same:
        raise typer.Exit(1)


def _print_reproduced(done: "Reproduced") -> None:
    rows = [(c.what, _brief(c.expected), _brief(c.found), _verdict(c.same, c.counts)) for c in done.compared]
    table("", ("compared", "recorded", "now", ""), rows)
    if not done.same and done.differences:
        print()
        table("", ("what differs here", "recorded", "now"), [(d.what, d.recorded, d.here) for d in done.differences])
    elif not done.same:
        print("The recorded environment is the same as this one, in everything that is recorded.")
    words = "reproduced" if done.same else "did not reproduce"
    print(f"{done.ref} {words} ({done.promised}), in {done.seconds:.1f} seconds. Run {done.run} records it.")


def _verdict(same: bool, counts: bool) -> str:
    return ("the same" if same else "DIFFERS") if counts else ("the same, not promised" if same else "differs, not promised")


def _brief(value: Any) -> Any:
    """A digest cut to what tells two apart, an interval in words."""
    if isinstance(value, Mapping):
        return f"{value['value']:.4f}, {value['low']:.4f} to {value['high']:.4f}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return value[:19] if isinstance(value, str) and value.startswith("sha256:") else value


@app.command()
def benchmark(
    base: Annotated[
        str | None, typer.Option(help="A hub id, a local folder, or 'tiny'; default: Mistral 7B on a GPU with 20 GB, else tiny.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Numbers of examples, with commas.")] = "50,150,500,1000,5000,10000",
    tokens: Annotated[int, typer.Option(min=8, max=100_000, help="About how many tokens an example has.")] = 300,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="An advisor whose pairs to train on instead of synthetic dialogues; elena, or elena:DIGEST for another than the latest."
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="lora, qlora or full; default: what the base and the device call for.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file with recipe settings that differ from the defaults.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the examples.")] = 1,
    gpu_price: Annotated[
        float | None,
        typer.Option(
            min=0, help="US dollars per hour of this machine; default: an own machine's electricity (0.102) and a RunPod A100 (2)."
        ),
    ] = None,
    measure_up_to: Annotated[
        int | None, typer.Option(min=2, help="Measure sizes up to this one and extrapolate the others; default: by --minutes.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0, help="Measure the sizes whose training should take this long, by the smallest one's pace.")
    ] = 5.0,
    as_json: Json = False,
) -> None:
    """Measure what trainings of several sizes take and cost: phases, seconds, tokens per second, memory, US dollars."""
    from jobs.benchmark import Order
    from jobs.benchmark import benchmark as run
    from trainer.benchmark import PRICES

    settings = recipe_settings(recipe) | ({"method": method} if method else {})
    order = Order(
        base=base,
        sizes=_sizes(sizes),
        tokens=tokens,
        dataset=_dataset(dataset),
        settings=settings,
        epochs=epochs,
        prices={"this machine": gpu_price} if gpu_price is not None else dict(PRICES),
        measure_up_to=measure_up_to,
        limit_s=minutes * 60,
    )
    with open_catalogue(check=dataset is not None) as opened, progress(quiet=as_json) as on_event:
        done = run(opened.settings.home, order, on_event, db=opened.db, actor=opened.actor)
    if as_json:
        from jobs.benchmark import read

        print_json(read(done.path))
    else:
        _print_benchmark(done)


def _sizes(text: str) -> tuple[int, ...]:
    parts = [part.strip().replace("_", "") for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdecimal() and len(part) < 9 for part in parts):
        raise Invalid(f"Sizes are whole numbers with commas between them; found {text[:80]!a}.", hint="For example --sizes 50,150,500.")
    return tuple(sorted({int(part) for part in parts}))


def _dataset(text: str | None) -> tuple[str, str | None] | None:
    if text is None:
        return None
    advisor, _, ref = text.partition(":")
    return advisor, ref or None


def _print_benchmark(done: "Benchmarked") -> None:
    from trainer.benchmark import FLEET, clock, phase_rows

    facts = done.facts
    recipe = facts["recipe"]
    smallest = done.cold.examples
    print(
        f"{facts['base']['repo']} on {facts['device']}: {recipe['method']}, {facts['trainable_parameters']:,} of {facts['total_parameters']:,} parameters trained, "
        f"{recipe['batching']}, epochs: {facts['epochs']}, {done.cold.tokens / smallest / done.cold.epochs:.0f} tokens an example"
    )
    print()
    rows = [(name, clock(cold), clock(warm)) for name, cold, warm in phase_rows(done.cold, done.warm)]
    table("", (f"phase, {smallest} examples", "cold", "warm worker"), rows)
    print()
    columns = (
        "examples",
        "training time",
        "total, cold",
        "total, warm",
        "s per example and epoch",
        "tokens/s",
        "trained/s",
        "peak memory",
        "",
    )
    table("", columns, [_time_row(row) for row in done.rows])
    print()
    prices = list(facts["prices_usd_per_hour"].items())
    priced = ("examples", *(f"{what} at ${price:g}/h: {whom}" for what, price in prices for whom in ("an advisor", f"{FLEET} advisors")))
    table("", priced, [(r.examples, *(f"${c:,.4g}" for p, _ in prices for c in (r.advisor_usd[p], r.fleet_usd[p]))) for r in done.rows])
    print(f"\nCosts are the seconds measured on this {facts['device']} at that price an hour, whatever machine the price is for.")
    print(f"An advisor's cost is that of a cold process of its own; {FLEET} advisors are trained by one warm worker after the other.")
    if any(row.extrapolated for row in done.rows):
        print(f"Extrapolated: {facts['extrapolation']}.")
    print(f"Written to {done.path}")


def _time_row(row: Any) -> tuple[Any, ...]:
    from trainer.benchmark import clock

    memory = row.peak_memory_bytes
    rates = [None if rate is None else f"{rate:,.0f}" for rate in (row.tokens_per_s, row.trained_tokens_per_s)]
    return (
        row.examples,
        clock(row.training_s),
        clock(row.total_cold_s),
        clock(row.total_warm_s),
        f"{row.s_per_example_epoch:.4g}",
        *rates,
        None if memory is None else f"{memory / 1024**3:.2f} GiB",
        f"extrapolated; {row.error}" if row.extrapolated else "measured",
    )
