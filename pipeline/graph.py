"""The run as a graph (LangGraph): which step follows which, what runs at the same time, and what a killed run goes on with.

This is the only file that imports langgraph. Nodes never raise and return only ids and words: everything large lies in the run's store. The number of
calls at a time is bounded inside the nodes, by the governor, and never by `max_concurrency`: that setting makes LangGraph queue its checkpoint writes
behind tasks that have not started, and a kill then loses every finished task of the step (measured: 27 of 27).
"""

import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from pipeline.steps import Steps, agent_names

_NODES_LIMIT = 1000  # supersteps; a run has nine and two per top-up round


class State(TypedDict):
    """What the graph itself carries. `stopped` holds the reasons why the run ends early."""

    stopped: Annotated[list[str], operator.add]
    batches: list[str]
    round: int


class _Task(TypedDict):
    batch: str


def build(steps: Steps, *, documents: bool) -> "StateGraph[Any, Any, Any, Any]":
    """The graph over the steps of one run."""
    agents = agent_names(steps.config, documents=documents)

    async def extract(_state: State) -> dict[str, Any]:
        return {"stopped": await steps.extract()}

    async def queries(_state: State) -> dict[str, Any]:
        return {"stopped": await steps.queries()}

    async def merge(_state: State) -> dict[str, Any]:
        return {"stopped": await steps.merge()}

    async def plan(_state: State) -> dict[str, Any]:
        return {"batches": await steps.plan(), "round": 0}

    async def synthesise(task: _Task) -> dict[str, Any]:
        return {"stopped": await steps.synthesise(task["batch"])}

    async def gather(state: State) -> dict[str, Any]:
        more = await steps.gather(state["round"], stopped=bool(state["stopped"]))
        return {"batches": more, "round": state["round"] + 1}

    def write(state: State) -> list[Send] | str:
        return [Send("synthesise", {"batch": batch}) for batch in state["batches"]] or END

    def after_gather(state: State) -> list[Send] | str:
        return END if state["stopped"] else write(state)

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    nodes: dict[str, Any] = {
        "extract": extract,
        "queries": queries,
        "merge": merge,
        "plan": plan,
        "synthesise": synthesise,
        "gather": gather,
    }
    for name, node in nodes.items():
        graph.add_node(name, node)
    for agent in agents:
        graph.add_node(agent, _agent(steps, agent))
    graph.add_edge(START, "extract")
    graph.add_conditional_edges("extract", lambda state: END if state["stopped"] else "queries", ["queries", END])
    graph.add_conditional_edges("queries", lambda state: END if state["stopped"] else agents, [*agents, END])
    graph.add_edge(agents, "merge")
    graph.add_conditional_edges("merge", lambda state: END if state["stopped"] else "plan", ["plan", END])
    graph.add_conditional_edges("plan", write, ["synthesise", END])
    graph.add_edge("synthesise", "gather")
    graph.add_conditional_edges("gather", after_gather, ["synthesise", END])
    return graph


def _agent(steps: Steps, name: str) -> Any:
    async def research(_state: State) -> dict[str, Any]:
        return {"stopped": await steps.agent(name)}

    return research


@asynccontextmanager
async def checkpoints(folder: Path, conninfo: str | None) -> AsyncIterator[Any]:
    """LangGraph's checkpointer: a file in the run's folder, or Postgres where the catalogue is shared."""
    if conninfo is None:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver:
            await saver.setup()
            yield saver
        return
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async with AsyncPostgresSaver.from_conn_string(conninfo) as saver:
        if not await _is_set_up(saver):
            await saver.setup()
        yield saver


async def _is_set_up(saver: Any) -> bool:
    """Whether the checkpointer's newest table is there. A worker's role may use its tables and not make them, and setup asks for the right in any case."""
    async with saver.conn.cursor() as cursor:
        await cursor.execute("SELECT to_regclass('checkpoint_migrations') AS found")
        if (await cursor.fetchone())["found"] is None:
            return False
        await cursor.execute("SELECT max(v) AS newest FROM checkpoint_migrations")
        newest = (await cursor.fetchone())["newest"]
    return newest is not None and newest >= len(saver.MIGRATIONS) - 1


async def prepare_checkpoints(conninfo: str) -> None:
    """Make the checkpointer's tables in Postgres; `registry init` calls it."""
    async with checkpoints(Path(), conninfo):
        pass


async def drive(steps: Steps, saver: Any, thread: str, *, documents: bool) -> list[str]:
    """Run the graph from its last checkpoint, or from the start, until it ends. Returns why it ended early, if it did."""
    compiled = build(steps, documents=documents).compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": thread}, "recursion_limit": _NODES_LIMIT}
    known = await compiled.aget_state(config)
    if known.values and not known.next:  # it had ended, and the process was killed before that was written down
        return list(dict.fromkeys(known.values["stopped"]))
    begin: Any = None if known.next else {"stopped": [], "batches": [], "round": 0}
    # "async" writes checkpoints while the next step runs; finished tasks are on disk before that (27 of 27 after kill -9).
    state = await compiled.ainvoke(begin, config, durability="async")
    return list(dict.fromkeys(state["stopped"]))
