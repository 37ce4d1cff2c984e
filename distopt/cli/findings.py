"""What a check of the machine has found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """Facts, one a line, name first; and problems."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, name: str, text: str) -> None:
        """Add a fact."""
        self.facts.append((name, text))

    def problem(self, text: str) -> None:
        """Add a problem; the text says its cure too."""
        self.problems.append(text)

    @property
    def status(self) -> int:
        """The exit status: 1 if something is wrong."""
        return int(bool(self.problems))

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.facts)
        lines = [f"{name:<{width}}  {text}" for name, text in self.facts]
        verdict = [f"wrong: {text}" for text in self.problems] or ["nothing is wrong"]
        return "\n".join([*lines, "", *verdict])
