"""The command line. Commands that call a server take ``--url`` and the token from the environment."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bucketline_service.cli import maps, preview, runs, scan
from bucketline_service.cli.common import errors
from bucketline_service.cli.server import demo, serve
from bucketline_service.cli.watch import events, status, top
from bucketline_service.version import VERSION

PANELS = BEGIN, IMAGES, RUNS, WATCH, OTHERS = "To begin", "Images", "Runs", "Watching", "Others"
HELP = """Aspect-ratio bucket planning as a service.

\b
In the order of use:
  bucketline serve                          the coordinator, on this machine
  bucketline scan FOLDER -o sizes.parquet   the sizes of your images
  bucketline preview sizes.parquet          what a plan would cost
  bucketline map put mine sizes.parquet     the sizes to the coordinator
  bucketline run put first --map mine --world-size 8 --batch-size 8
  bucketline top first                      the run, as it is trained

Another coordinator: --url or BUCKETLINE_URL; its token: BUCKETLINE_TOKEN.
"""


class _InGroups(TyperGroup):
    """Lists commands below the panel that they were given, as plain text: rich's panels would read defaults in
    brackets as markup."""

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


def _version(is_asked: bool) -> None:
    if is_asked:
        print(f"bucketline {VERSION}")
        raise typer.Exit


app = typer.Typer(
    name="bucketline",
    cls=_InGroups,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is text: defaults stand in brackets, which would be markup
)


@app.callback(help=HELP)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command(rich_help_panel=BEGIN)(serve)
app.command(rich_help_panel=BEGIN, short_help="An epoch on 4 processes, one of them killed, and the proof.")(
    demo
)
app.command("scan", rich_help_panel=IMAGES, short_help="The sizes of images, as a map.")(errors()(scan.scan))
app.command("preview", rich_help_panel=IMAGES, short_help="What plans would cost, side by side; no server.")(
    preview.preview
)
app.add_typer(maps.app, name="map", rich_help_panel=IMAGES)
app.add_typer(runs.app, name="run", rich_help_panel=RUNS)
app.command(rich_help_panel=WATCH, short_help="A run as it is trained, on a screen of its own.")(top)
app.command(rich_help_panel=WATCH, short_help="What has happened: sessions, fences, faults of the store.")(
    events
)
app.command(rich_help_panel=WATCH, short_help="Whether the coordinator can serve, and its version.")(status)


def main() -> None:
    app()
