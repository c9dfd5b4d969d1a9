"""The command line: each command parses, calls one function and prints.

Data goes to stdout, talk to stderr. Exit 0: success; 1: some trials failed; 2: bad usage or a bad sweep; 130:
interrupted. The commands are in the modules below, by what they are about; heavy modules are imported inside of them.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path

import click

from orchestrator.cli import files, runs, storage, tables, views
from orchestrator.cli.printing import say, write
from orchestrator.terminal import PrintableFormatter
from trainables.errors import UserError

# Our models need no pydantic plug-ins, and looking for some costs a tenth of the time that `plan` takes.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def main() -> None:
    """The `bottleneck` command."""
    # To start is to make tens of thousands of objects that all stay: looking for cycles among every 700 new ones took a
    # twentieth of the time of `plan`.
    gc.set_threshold(50_000)
    if logging.lastResort:
        logging.lastResort.setFormatter(PrintableFormatter())
    try:
        code = bottleneck(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):  # click turns the one into the other
        # A sweep goes on from where it was; these have nothing to go on from, and one of them was asking.
        said = {"init": "\nstopped", "replay": "stopped"}
        say(said.get("".join(sys.argv[1:2]), "stopped; the same command continues"))
        sys.stdout.flush()
        os._exit(130)  # at once, without waiting for threads
    except click.ClickException as error:
        error.show()
        code = 2
    except UserError as error:
        say(" ".join(str(error).splitlines()))
        code = 2
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="transfer-bottleneck", prog_name="bottleneck")
def bottleneck() -> None:
    """Does a network pretrained on a mixture keep the features that each component needs?

    SWEEP is a sweep file, or the name of one that ships with the program, such as quickstart.
    """


@bottleneck.command(short_help="Print a script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
def completion(shell: str | None) -> None:
    """Print what makes a shell complete commands, options and names of sweeps; for the shell of $SHELL unless named.

    bash: `bottleneck completion bash >> ~/.bashrc`; zsh: the same with ~/.zshrc; fish: into
    ~/.config/fish/completions/bottleneck.fish.
    """
    from click.shell_completion import get_completion_class

    name = shell or Path(os.environ.get("SHELL", "")).name
    script = get_completion_class(name)
    if script is None:
        raise click.UsageError(f"found {name!r} as the shell of $SHELL; name one of bash, zsh, fish")
    write(script(bottleneck, {}, "bottleneck", "_BOTTLENECK_COMPLETE").source())


for _command in (
    *(files.init, files.validate, files.plan),
    *(runs.run, runs.status, runs.doctor),
    *(tables.results, tables.claims, tables.ladder, tables.findings, tables.analyse, tables.compare, tables.replay),
    *(views.report, views.figure, views.sync, views.ui),
    storage.gc,
):
    bottleneck.add_command(_command)
