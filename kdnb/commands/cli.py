"""The command line: ``kdnb run | train | study | list | doctor | lab | bench``.

Bad input ends the program with one line on standard error and exit code 2. A traceback is always a bug of
this package.
"""

import os
import shlex
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from kdnb import __version__
from kdnb.commands.bench import bench
from kdnb.commands.study import study
from kdnb.commands.train import train
from kdnb.commands.workers import worker_options
from kdnb.errors import InputError, require_choice


class Course(click.Group):
    """A group of commands that answers a wrong name with the nearest one.

    Errors that the user can mend are printed as one line, without a traceback.
    """

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        """Finds the command that the arguments name.

        Args:
            ctx: Click's context.

            args: The arguments, of which the first is the name.

        Returns:
            What click's own method returns.

        Raises:
            InputError: If there is no command of that name.
        """
        if not ctx.resilient_parsing and not args[0].startswith("-"):
            require_choice("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command and turns errors into exit codes.

        Args:
            ctx: Click's context.

        Returns:
            What the command returns.
        """
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"kdnb: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=Course, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdnb")
def main() -> None:
    """A course and a laboratory for knowledge distillation.

    Start with 'kdnb lab', or run everything once with 'kdnb run --preset smoke'.
    """


@main.command(short_help="Execute notebooks.")
@click.argument("numbers", nargs=-1, metavar="[NUMBER]...")
@click.option("-p", "pairs", multiple=True, metavar="name=value", help="Set a parameter. May be repeated.")
@click.option("--preset", metavar="P", help="smoke, quick or paper. Short for -p preset=P.")
@click.option(
    "--out",
    default="executed",
    type=click.Path(path_type=Path),
    show_default=True,
    help="Folder for the executed notebooks.",
)
@click.option("--html", is_flag=True, help="Also write each notebook as an HTML page.")
@click.option("--jobs", default=1, type=click.IntRange(min=1), help="How many notebooks run at a time.")
@click.option("--resume", is_flag=True, help="Skip notebooks that finished with the same parameters.")
@click.option(
    "--grid",
    "lists",
    multiple=True,
    metavar="name=value,value",
    help="Run once for each value, and for each combination where this is repeated.",
)
@worker_options
def run(
    numbers: tuple[str, ...],
    pairs: tuple[str, ...],
    preset: str | None,
    out: Path,
    html: bool,
    jobs: int,
    resume: bool,
    lists: tuple[str, ...],
    cluster: str | None,
    workers: int | None,
    threads: int | None,
    per_gpu: int,
) -> None:
    """Execute the notebooks that NUMBER names, such as 0, 00 or 00_start_here.

    Without NUMBER, all notebooks are executed. The executed notebooks and summary.json are written to
    the folder --out. 'kdnb list' shows the notebooks and their parameters.

    With --grid, every combination of values has its own folder in --out, results.csv holds the headline
    numbers of all, and the options from --cluster on say where they run.
    """
    from kdnb.commands.grid import Workers, require_fitting, run_grid
    from kdnb.headless.grids import read_grid
    from kdnb.headless.notebooks import parameter_values, read_notebook, select
    from kdnb.headless.worker_pool import RunOptions

    notebooks = [read_notebook(path) for path in select(numbers)]
    given = [*pairs, f"preset={preset}"] if preset else pairs
    options = RunOptions(out, parameter_values(notebooks, given), html, jobs, resume)
    chosen = Workers(cluster, workers, threads, per_gpu)
    require_fitting(chosen, jobs, grid=bool(lists))
    if lists:
        combinations = read_grid(notebooks, lists, fixed=options.parameters)
        well = run_grid(notebooks, combinations, options, chosen)
    else:
        well = _run_plainly(notebooks, options)
    if not well:
        sys.exit(1)


def _run_plainly(notebooks: list, options: object) -> bool:
    """Runs the notebooks, shows how they ended, and returns whether all went well."""
    from kdnb import headless
    from kdnb.headless.display import failure_text, table

    jobs = options.jobs
    if jobs > headless.cores():
        click.echo(
            f"--jobs {jobs}: this machine has {headless.cores()} cores, so {headless.cores()} "
            "notebooks run at a time.",
            err=True,
        )
    options = replace(options, jobs=min(jobs, headless.cores()))
    outcomes = _run_and_show(notebooks, options)
    failed = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failed:
        click.echo(f"\n{failure_text(outcome)}\n", err=True)
    click.echo(table(outcomes))
    return not failed


def _run_and_show(notebooks: list, options: object) -> list:
    """Returns the outcomes in the order of ``notebooks``.

    On Ctrl-C it prints the command that continues the run, and exits with 130.
    """
    from kdnb import headless
    from kdnb.headless.display import Display

    outcomes = {}
    names = [notebook.stem for notebook in notebooks]
    events = headless.run(notebooks, options)
    try:
        with closing(Display(names, sys.stderr)) as display, closing(events):
            for event in events:
                display.show(event)
                if isinstance(event, headless.Outcome):
                    outcomes[event.notebook] = event
    except KeyboardInterrupt:
        command = [*sys.argv[1:], *([] if options.resume else ["--resume"])]
        click.echo(
            f"Stopped: {len(outcomes)} of {len(notebooks)} notebooks are done and kept in "
            f"{options.out}. Go on with: kdnb {shlex.join(command)}",
            err=True,
        )
        sys.exit(130)
    return [outcomes[name] for name in names]


@main.command("list", short_help="Show notebooks, methods, networks, data sets.")
def list_() -> None:
    """Show notebooks with their parameters, methods, networks and data sets."""
    from kdnb.datasets import DATASETS
    from kdnb.headless.notebooks import course_notebooks, read_notebook
    from kdnb.methods import METHODS
    from kdnb.networks import DYNAMIC, NETWORKS, TORCHVISION
    from kdnb.runs.options import method_options, option_word

    notebooks = [read_notebook(path) for path in course_notebooks()]
    click.echo("Notebooks")
    for notebook in notebooks:
        number = notebook.stem[:2]
        click.echo(f"  {number}  {notebook.title.removeprefix(f'{number} · ')}")
        for parameter in notebook.parameters.values():
            line = f"{parameter.name}: {parameter.type} = {parameter.default}"
            click.echo(f"        {line:32}{parameter.help}".rstrip())
    click.echo("\nMethods, with the options of 'kdnb train' (-o name=value)")
    for name, method in METHODS.items():
        click.echo(f"  {name:{max(map(len, METHODS))}}  {_first_line(method)}")
        for option, default in method_options(method).items():
            click.echo(f"        {option} = {option_word(default)}")
    own = {name: _cost(name, 32) for name in NETWORKS if not name.startswith(TORCHVISION)}
    _section("Networks (cost for 10 classes, one 32 x 32 picture)", own)
    click.echo(
        f"  NAME{DYNAMIC}: any of these networks with all convolutions made dynamic, like the teacher of ECD"
    )
    others = {name: _cost(name, 224) for name in NETWORKS if name.startswith(TORCHVISION)}
    _section("Networks of torchvision, without its weights (one 224 x 224 picture)", others)
    _section("Data sets", DATASETS)


def _first_line(described: object) -> str:
    return (described.__doc__ or "").strip().partition("\n")[0]


def _cost(network: str, size: int) -> str:
    from kdnb.networks import build, cost

    parameters, macs = cost(build(network, classes=10), size=size)
    return f"{parameters:>10,} parameters, {macs / 1e6:6.1f} million multiplications"


def _section(title: str, lines: dict[str, str]) -> None:
    click.echo(f"\n{title}")
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        click.echo(f"  {name:{width}}  {line}".rstrip())


@main.command(short_help="Check this machine and name remedies.")
def doctor() -> None:
    """Check whether this machine can run the course, and say how to mend what is wrong."""
    from kdnb.commands.doctor import examine

    failed = False
    for check in examine(Path.cwd() / "executed"):
        click.echo(f"{check.status:4}  {check.name}: {check.found}")
        if check.remedy:
            click.echo(f"      -> {check.remedy}")
        failed = failed or check.status == "FAIL"
    if failed:
        sys.exit(1)


@main.command(
    short_help="Open JupyterLab on the notebooks.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the first notebook. ARGUMENTS are passed on to JupyterLab."""
    from kdnb.headless.notebooks import course_notebooks

    first = course_notebooks()[0]
    arguments = (f"--LabApp.default_url=/lab/tree/{first.name}", *arguments)
    if hasattr(os, "geteuid") and os.geteuid() == 0 and "--allow-root" not in arguments:
        click.echo(
            "You are root, as is usual in a container, and JupyterLab is started with --allow-root. Whoever "
            "has its address and token can do everything here.",
            err=True,
        )
        arguments = ("--allow-root", *arguments)
    click.echo("JupyterLab prints its address below. Open it if no browser opens; Ctrl-C ends it.", err=True)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(first.parent), *arguments])


main.add_command(train)
main.add_command(study)
main.add_command(bench)


if __name__ == "__main__":
    main()
