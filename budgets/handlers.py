"""What budgets do when runs begin and when the sweeper was round."""

from __future__ import annotations

from budgets.allotments import open_budget, write_off
from budgets.notify import run_ended
from budgets.reserve import close_books
from vaulthalla.work.registry import on_run_created, on_run_finished, on_sweep

on_run_created(open_budget)
on_run_finished(close_books)
# After the books: it tells of what they say.
on_run_finished(run_ended)
on_sweep(write_off)
