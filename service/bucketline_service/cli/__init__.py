"""The command line: every command is registered here. Those that call a coordinator take ``--url``, and the token from
the environment."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bucketline_service.cli import maps, preview, runs, scan
from bucketline_service.cli.demo import demo
from bucketline_service.cli.errors import errors
from bucketline_service.cli.events import events
from bucketline_service.cli.serve import serve
from bucketline_service.cli.status import status
from bucketline_service.cli.top import top
from bucketline_service.version import VERSION

PANELS = START, IMAGES, RUNS, MONITOR, OTHERS = "Getting started", "Images", "Runs", "Monitoring", "Other"
HELP = """Aspect-ratio bucket planning as a service.

\b
In the order in which you need them:
  bucketline serve                          run the coordinator on this machine
  bucketline scan FOLDER -o sizes.parquet   read the sizes of your images
  bucketline preview sizes.parquet          show what a plan would cost
  bucketline map put mine sizes.parquet     upload the sizes to the coordinator
  bucketline run put first --map mine --world-size 8 --batch-size 8
  bucketline top first                      follow the run while it is trained

For another coordinator set --url or BUCKETLINE_URL, and its token in BUCKETLINE_TOKEN.
"""


class _Panels(TyperGroup):
    """Lists commands by panel, as plain text: with rich's panels, defaults in brackets would be markup."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {panel: [] for panel in PANELS}
        longest = max(map(len, self.commands))
        for name, command in self.commands.items():
            text = command.get_short_help_str(formatter.width - 6 - longest)
            panels[getattr(command, "rich_help_panel", None) or OTHERS].append((name.ljust(longest), text))
        for panel, rows in panels.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)


def _version(is_requested: bool) -> None:
    if is_requested:
        print(f"bucketline {VERSION}")
        raise typer.Exit


app = typer.Typer(
    name="bucketline",
    cls=_Panels,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is text: defaults are in brackets, which would be markup
)


@app.callback(help=HELP)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command(rich_help_panel=START)(serve)
app.command(rich_help_panel=START, short_help="Train an epoch on 4 processes, kill one, prove the result.")(
    demo
)
app.command("scan", rich_help_panel=IMAGES, short_help="Read the sizes of images into a map.")(
    errors()(scan.scan)
)
app.command("preview", rich_help_panel=IMAGES, short_help="Compare what plans would cost, without a server.")(
    preview.preview
)
app.add_typer(maps.app, name="map", rich_help_panel=IMAGES)
app.add_typer(runs.app, name="run", rich_help_panel=RUNS)
app.command(rich_help_panel=MONITOR, short_help="Follow runs while they are trained.")(top)
app.command(rich_help_panel=MONITOR, short_help="Show what has happened: sessions, fences, faults.")(events)
app.command(rich_help_panel=MONITOR, short_help="Show whether the coordinator can serve.")(status)


def main() -> None:
    app()
