"""Check data before it trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import EXIT_USER_ERROR, Format, Output

app = typer.Typer()


@app.command()
def score(
    file: Annotated[
        Path,
        typer.Argument(
            help='JSONL(.gz) or Parquet with rows {"completion": ..., "answer": ...}; - reads JSONL from standard input'
        ),
    ],
    reward: Annotated[str, typer.Option(help="reward of rows that name none, as in a run spec")] = '{"type": "math"}',
    golds: Annotated[
        bool, typer.Option("--golds", help="score each gold answer against itself, as it is and in a box")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Score completions as the reward service would: a verdict a row. Needs no stack; exit code 1 if a row has none."""
    from services.cli.score import Tally, as_text, rows_of, scored

    tally = Tally()
    with rows_of(file) as source, scored(source, reward=reward, golds=golds) as rows:
        for row in rows:
            tally.add(row)
            print(json.dumps(row, ensure_ascii=False) if output is Format.JSON else as_text(row))
    if tally.counts:
        print(tally, file=sys.stderr)
    if tally.counts["problem"] or not tally.counts:
        raise typer.Exit(EXIT_USER_ERROR)
