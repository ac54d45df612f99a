"""What a call cost, from the provider's own token counts and a dated table. An unknown model has an unknown price: None, never zero.

Where the table has no price for reading from the cache, the full input price is taken: an estimate that is too high stops a run early, one that is too
low spends money nobody allowed.
"""

import json
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.ports import Usage
from registry.errors import Invalid


@dataclass(frozen=True)
class Prices:
    """A table of prices in US dollars per million tokens, `dated` with the day it was true."""

    dated: str
    source: str
    models: dict[str, dict[str, float]]
    web_search_per_1000: float
    per_tokens: float = 1_000_000

    @classmethod
    def read(cls, path: Path | None = None) -> "Prices":
        """The table in a file; None reads the one in the package. Raises Invalid for a file that is no such table."""
        try:
            text = (resources.files("pipeline") / "prices.json").read_text("utf-8") if path is None else path.read_text("utf-8")
            table = json.loads(text)
            models = {str(name): _numbers(prices) for name, prices in table["models"].items()}
            return cls(str(table["dated"]), str(table["source"]), models, _price(table["web_search_per_1000"]), _price(table["per_tokens"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Invalid(
                f"Expected a table of prices in {path}, found something else ({type(error).__name__}: {str(error)[:100]}).",
                "Copy pipeline/prices.json and change its numbers; dated, source, per_tokens, web_search_per_1000 and models are needed.",
            ) from None

    def knows(self, model: str) -> bool:
        """Whether the table prices the model."""
        return model in self.models

    def cost(self, model: str, usage: Usage) -> float | None:
        """US dollars, or None for a model that the table does not know."""
        prices = self.models.get(model)
        if prices is None:
            return None
        prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        factor = prices.get("long_prompt_factor", 1.0) if prompt > prices.get("long_prompt_above", math.inf) else 1.0
        tokens = (
            usage.input_tokens * prices["input"]
            + usage.output_tokens * prices["output"]
            + usage.cache_read_tokens * prices.get("cache_read", prices["input"])
            + usage.cache_write_tokens * prices.get("cache_write", prices["input"])
        )
        return factor * tokens / self.per_tokens + usage.web_searches * self.web_search_per_1000 / 1000


def cost(model: str, usage: Usage, path: Path | None = None) -> float | None:
    """US dollars of one call by the package's table, or by the one in `path`; None for an unknown model."""
    return Prices.read(path).cost(model, usage)


def _numbers(prices: dict[str, Any]) -> dict[str, float]:
    numbers = {name: _price(value) for name, value in prices.items()}
    for name in ("input", "output"):
        if name not in numbers:
            raise KeyError(name)
    return numbers


def _price(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        msg = f"{value!r} is no price"
        raise ValueError(msg)
    return number
