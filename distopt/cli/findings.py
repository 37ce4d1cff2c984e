"""The results of checks of the machine."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """Facts and problems; as text one fact a line, name first."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, name: str, text: str) -> None:
        """Add a fact."""
        self.facts.append((name, text))

    def problem(self, text: str) -> None:
        """Add a problem; the text also names the cure."""
        self.problems.append(text)

    @property
    def status(self) -> int:
        """Return the exit status: 1 if there is a problem."""
        return int(bool(self.problems))

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.facts)
        lines = [f"{name:<{width}}  {text}" for name, text in self.facts]
        verdict = [f"wrong: {text}" for text in self.problems] or ["nothing is wrong"]
        return "\n".join([*lines, "", *verdict])
