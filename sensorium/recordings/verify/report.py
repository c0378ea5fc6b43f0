"""What a verification found."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from sensorium.errors import DataError

Level = Literal["error", "warning"]
"""`error`: the pipeline would stop or learn nonsense. `warning`: it runs, but the format is not met."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Finding:
    """One breach of one rule."""

    rule: str
    """Short name of the rule, the same for all its breaches."""
    level: Level
    file: str
    """File or folder, relative to the mouse's."""
    message: str


@dataclass
class Report:
    """All findings on one mouse."""

    mouse: str
    mouse_set: str
    quick: bool
    """Whether values were left unread."""
    trials: int = 0
    neurons: int = 0
    tiers: dict[str, int] = field(default_factory=dict)
    """Number of trials by tier."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, rule: str, file: str, message: str, level: Level = "error") -> None:
        """Note a breach."""
        self.findings.append(Finding(rule, level, file, message))

    def attempt(self, rule: str, file: str, read: Callable[[], _Result]) -> _Result | None:
        """Call `read`; where it refuses, note why, without the path that the finding names already, and return None."""
        try:
            return read()
        except DataError as fault:
            named, _, reason = fault.problem.partition(f"/{file}: ")
            self.add(rule, file, str(fault) if rule == "folder" else reason or named)
            return None

    def count(self, level: Level) -> int:
        """Number of findings of one level."""
        return sum(finding.level == level for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as a plain tree."""
        return asdict(self) | {"errors": self.count("error"), "warnings": self.count("warning")}
