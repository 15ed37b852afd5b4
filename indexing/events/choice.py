"""Which of its jobs `vh vault sync events` is asked to do, and what goes with which."""

from __future__ import annotations

from dataclasses import dataclass

from vaulthalla.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    file: str = ""
    queue: str = ""
    set_aside: bool = False
    clear: bool = False
    follow: bool = False
    through: str = ""
    no_lifecycle_rules: bool = False
    api_key: str = ""

    def check(self) -> None:
        """Raises Refused, naming the option."""
        if sum(map(bool, (self.file, self.queue, self.set_aside))) != 1:
            raise _invalid("Events come from one place.", "Give one of --file FILE, --queue URL or --set-aside.")
        only = {
            "--follow": (self.follow, self.queue, "--queue"),
            "--api-key": (self.api_key, self.queue, "--queue"),
            "--no-lifecycle-rules": (self.no_lifecycle_rules, self.queue, "--queue"),
            "--clear": (self.clear, self.set_aside, "--set-aside"),
        }
        for option, (given, place, name) in only.items():
            if given and not place:
                raise _invalid(f"{option} goes with {name} only.", f"Leave it out, or give {name}.")
        if self.through and (self.set_aside or self.follow):
            raise _invalid(
                "--through is said once, of what is read now.", "Give it with --file, or --queue without --follow."
            )


def _invalid(message: str, remedy: str) -> Refused:
    return Refused(message, code="invalid_value", remedy=remedy)
