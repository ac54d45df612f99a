"""The API under test in this process, tokens for it, and the smallest adapter that the gate lets in."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import factories
import numpy as np
from fastapi import FastAPI
from safetensors_kit import safetensors
from sqlalchemy import event
from starlette.testclient import TestClient

from registry import advisors, bases, evaluations, promotion, runs, sources, tokens, versions
from registry.adapter_files import base_card_from_config, canonical_config, model_tensors, tuned_config
from registry.api.app import create_app
from registry.artifacts import ArtifactStore
from registry.db import Database
from registry.evaluations import ScoreDraft
from registry.settings import Settings

HOST = "testserver"
ALL = ("read", "write", "promote", "admin")
TINY = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
BASE = {"repo": "example/tiny", "revision": "b" * 40}
DOI = "https://doi.org/10.1037/a0036904"
CITATION = {
    "type": "article-journal",
    "title": "Burnout and Daily Recovery",
    "author": [{"family": "Oerlemans", "given": "Wido G. M."}, {"family": "Bakker", "given": "Arnold B."}],
    "issued": {"date-parts": [[2014]]},
    "DOI": "10.1037/a0036904",
    "custom": {"class": "academic", "review_status": "peer_reviewed", "documents": [{"extent": "abstract"}]},
}


def settings(**more: Any) -> Settings:
    return Settings(**({"allowed_hosts": (HOST,)} | more))


class Api:
    """A client of an app over one catalogue."""

    def __init__(self, db: Database, store: ArtifactStore, app: Any = None, **more: Any) -> None:
        self.db, self.store = db, store
        self.app: FastAPI = app or create_app(settings(**more), db, store)
        self.client = TestClient(self.app, base_url=f"http://{HOST}", follow_redirects=False)
        self.root = self.token(*ALL)

    def token(self, *scopes: str, advisor: str | None = None) -> dict[str, str]:
        """Headers with a new token."""
        with self.db.transaction() as session:
            bound = advisors.get(session, advisor) if advisor else None
            made = tokens.create(session, f"{'+'.join(scopes)} of {advisor}", scopes, actor="tester", advisor=bound)
        return {"authorization": f"Bearer {made.secret}"}

    def get(self, path: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
        return self.client.get(path, headers=self.root if headers is None else headers, **more)

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()  # ASCII, so that a lone surrogate can be sent
        typed = {} if body is None else {"content-type": "application/json"}
        return self.client.request(method, path, content=content, headers=(self.root if headers is None else headers) | typed)

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        return self.send("POST", path, body, headers)

    def card(self, slug: str = "elena", query: str = "", headers: dict[str, str] | None = None) -> Any:
        return self.client.get(f"/advisors/{slug}/sources{query}", headers=headers or {})


def problem(response: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem document of a refusal, checked for its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"type", "title", "status", "detail", "code", "hint", "reasons"}
    assert body["status"] == status
    assert body["detail"]
    assert code is None or body["code"] == code, body
    assert "Traceback" not in response.text
    assert "sqlalchemy" not in response.text
    return body


@contextmanager
def counted(db: Database) -> Iterator[list[str]]:
    """The data statements that run inside the block."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA", "ROLLBACK", "COMMIT")):
            found.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(db.engine, "before_cursor_execute", note)


def adapter(tag: int = 1, repo: str = BASE["repo"]) -> dict[str, bytes]:
    """An adapter for the tiny base; another tag gives other weights."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": repo,
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
    }
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{prefix}.lora_A.weight": np.full((4, 32), 0.01 * tag, np.float32),
        f"{prefix}.lora_B.weight": np.full((32, 4), 0.02 * tag, np.float32),
    }
    return {"adapter_model.safetensors": safetensors(tensors), "adapter_config.json": canonical_config(config, repo, BASE["revision"])}


def full_fine_tune() -> dict[str, bytes]:
    """A full fine-tune of the tiny base."""
    card = base_card_from_config(TINY, BASE["repo"], BASE["revision"])
    assert card is not None
    tensors = {name: np.full(shape, 0.01, np.float32) for name, shape in model_tensors(card).items()}
    return {"model.safetensors": safetensors(tensors), "config.json": tuned_config(card, "float32")}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def listed(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [{"path": name, "sha256": digest(data), "size": len(data)} for name, data in files.items()]


def add_base(db: Database) -> None:
    with db.transaction() as session:
        bases.ensure(session, bases.BaseFacts(BASE["repo"], BASE["revision"], "hub", config=TINY))


def add_live(db: Database, store: ArtifactStore, slug: str = "elena", *, seed: int = 1, alias: str = "live") -> int:
    """A ready version of the advisor's latest dataset, promoted."""
    number = factories.add_version(db, store, slug, seed=seed).number
    promote(db, store, f"{slug}@{number}", alias)
    return number


def promote(db: Database, store: ArtifactStore, ref: str, alias: str = "live") -> None:
    with db.transaction() as session:
        promotion.promote(session, store, versions.resolve(session, ref), actor="tester", alias=alias)


def measured(db: Database, ref: str, **metrics: float) -> None:
    """Held-out scores of a version, as a training run records them."""
    with db.transaction() as session:
        version = versions.resolve(session, ref)
        run = runs.start(session, version.advisor, "training", {"ref": ref}, actor=factories.ACTOR)
        drafts = [ScoreDraft(name, value, 10) for name, value in metrics.items()]
        evaluations.add(session, version, evaluations.HELDOUT, drafts, actor=factories.ACTOR, run_id=run.id)


def withdraw_source(db: Database, name: str) -> None:
    with db.transaction() as session:
        sources.withdraw(session, sources.get(session, name), actor="tester", reason="its authors withdrew it")


def pair(question: str, *, url: str = DOI, origin: str = "synthesised", **more: Any) -> dict[str, Any]:
    """A line of training data."""
    generator = {"generator": "a model"} if origin != "human" else {}
    return factories.line(question, sources=[url] if url else [], **{"origin": origin, **generator, **more})


def public_elena(db: Database, store: ArtifactStore) -> None:
    """A public advisor with one live version on two pairs from one abstract."""
    factories.add_advisor(db, "elena", public=True, aliases=("dr-elena",))
    factories.add_dataset(db, [pair("Why am I tired?"), pair("How do I rest?")], csl=[CITATION])
    add_live(db, store)
