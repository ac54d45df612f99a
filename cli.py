"""The command line `registry`: each command (commands/) parses, calls jobs.* or registry.*, and prints a table, or JSON with --json.

Nothing heavy is imported at the top: `registry --help` must answer at once, and no command but train may load torch (training itself runs in a process
of its own).
"""

# Importing a module adds its commands, in the order in which --help lists them.
from commands import installation, advisors, data, pipeline, versions, bases, jobs, repeat, machine, aliases, scores  # noqa: F401, I001
from commands.frame import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the command `registry`."""
    app()


if __name__ == "__main__":
    main()
