"""What the doctor reports: problems, and one report for each dataset."""

from dataclasses import dataclass, field
from pathlib import Path

DOCS = "docs/datasets.md tells what to download and where it goes"
FETCH = f"unpack the archive again, or fetch it again: {DOCS}"
DELETE = "delete it (or give --repair, which moves it aside): it is written again when it is needed"


@dataclass
class Problem:
    """One finding, and what to do about it.

    Attributes:
        severity: "error" (results would be wrong, or a run would stop), "warning" (worth knowing) or "note".
        kind: a word or two to sort by.
        what: the finding.
        fix: what to do.
        files: the files or labels concerned, each with what is wrong with it.
        stale: caches that can be moved aside, because they are written again when they are missing.
        repaired: they have been.
    """

    severity: str
    kind: str
    what: str
    fix: str
    files: list[str] = field(default_factory=list)
    stale: list[Path] = field(default_factory=list)
    repaired: bool = False


@dataclass
class Report:
    """Findings about one dataset; ``classes`` and ``images`` (per part) are empty where nothing could be read."""

    name: str
    folder: str
    found: bool = True
    classes: int | None = None
    images: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def count(self, severity: str) -> int:
        """Findings of one severity that have not been repaired."""
        return sum(problem.severity == severity and not problem.repaired for problem in self.problems)

    @property
    def status(self) -> str:
        if not self.found:
            return "not found"
        return "problems" if self.count("error") else "ok"
