"""``kdnb train``: its options are the fields of ``Spec``. torch is imported when it runs or is explained."""

import json
from collections.abc import Callable
from dataclasses import Field, asdict, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from kdnb.runs.records import Record

LOADING = {
    "cache": "The pictures were read from a cache on disk, because they exceed --memory.",
    "stream": "The pictures were streamed: decoded anew in every epoch, as random resized crops.",
}
TYPES = {"str": str, "int": int, "float": float, "bool": bool}


class SpecCommand(click.Command):
    """A command with an option for every setting of ``Spec``, with the name, default and help it has there.

    ``Spec`` brings torch with it, so it is imported when the options are first asked for: not by the start
    of the command line, nor by the list of commands.
    """

    @cached_property
    def settings(self) -> list[click.Option]:
        """The options that stand for fields of ``Spec``."""
        from kdnb.runs.spec import Spec

        return [_option(setting) for setting in fields(Spec) if "help" in setting.metadata]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """METHOD, the settings of ``Spec``, then what the command declares itself."""
        method, *others = super().get_params(ctx)
        return [method, *self.settings, *others]


def _option(setting: Field) -> click.Option:
    """The option of a field of ``Spec``."""
    word, kind = setting.name.replace("_", "-"), TYPES[setting.type.split(" ")[0]]
    return click.Option(
        [f"--{word}/--no-{word}" if kind is bool else f"--{word}"],
        type=kind,
        default=setting.default,
        show_default=True if setting.default is not None else setting.metadata.get("default"),
        help=setting.metadata["help"],
    )


@click.command(cls=SpecCommand, short_help="Train a network by a method; 'kdnb list' shows them.")
@click.argument("method")
@click.option("-o", "options", multiple=True, metavar="name=value", help="An option of METHOD.")
@click.option("--evaluate-every", default=1, show_default=True, type=click.IntRange(min=1), help="In epochs.")
@click.option("--out", default="runs", type=click.Path(path_type=Path), show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), help="For downloads and archives.")
@click.option(
    "--memory", metavar="SIZE", help="Of decoded pictures, such as 2G; half of what is free if unset."
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--force", is_flag=True, help="Repeat a finished run, or restart an interrupted one.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON, for scripts.")
@click.pass_context
def train(
    context: click.Context,
    options: tuple[str, ...],
    out: Path,
    data_root: Path | None,
    memory: str | None,
    evaluate_every: int,
    resume: bool,
    force: bool,
    as_json: bool,
    **settings: str | int | float | bool | None,
) -> None:
    """Train a student by METHOD and keep the record, the history, and the network.

    A run's folder is named by its settings: the same command finds a finished run instead of
    repeating it. Example:

        kdnb train kd --data shapes --student resnet8 --labels 500 -o temperature=2
    """
    from kdnb.datasets import bytes_from_words
    from kdnb.errors import InputError
    from kdnb.runs.running import leads, run
    from kdnb.runs.spec import Spec, with_options
    from kdnb.train import NotFinite

    given = {name: value for name, value in settings.items() if _is_given(context, name)}
    spec = with_options(Spec(**given), list(options))
    budget = None if memory is None else bytes_from_words(memory)
    folder = out / spec.name
    if (folder / "run.json").exists() and not force and leads():
        click.echo(f"Already finished: {folder} (--force repeats it)", err=True)
    try:
        record = run(
            spec,
            out=out,
            resume=resume,
            again=force,
            data_root=data_root,
            memory=budget,
            evaluate_every=evaluate_every,
            report=_reporter(spec.epochs),
        )
    except NotFinite as error:
        raise InputError(str(error)) from error
    except KeyboardInterrupt:
        if leads():
            click.echo(_how_to_go_on(folder), err=True)
        raise
    if leads():
        click.echo(json.dumps(asdict(record)) if as_json else _summary(folder, record))


def _is_given(context: click.Context, name: str) -> bool:
    """Whether the user set an option, if only to its default."""
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def _reporter(epochs: int) -> Callable[[dict[str, float]], None]:
    """Prints a line for every epoch of ``epochs`` on standard error."""

    def report(row: dict[str, float]) -> None:
        terms = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if "/" in name)
        click.echo(f"epoch {row['epoch']}/{epochs}  {row['seconds']:.0f} s  {terms}", err=True)

    return report


def _summary(folder: Path, record: "Record") -> str:
    """Where the run lies and how accurate every learner is."""
    lines = [f"{folder}  ({record.seconds:.0f} s)"]
    if record.loading in LOADING:
        lines.append(LOADING[record.loading])
    for learner, metrics in record.metrics.items():
        lines.append(
            f"{learner}: test accuracy {metrics['last']:.2f} % at the last epoch, "
            f"{metrics['selected']:.2f} % at the validation-selected epoch "
            f"{metrics['selected_epoch']}, {metrics['best']:.2f} % at the best test epoch "
            f"{metrics['best_epoch']}"
        )
    return "\n".join(lines)


def _how_to_go_on(folder: Path) -> str:
    if not (folder / "state.json").exists():
        return "Stopped before the first epoch was finished: nothing is kept."
    return (
        f"Stopped. The last finished epoch is kept in {folder}; the same command with --resume "
        "goes on from there."
    )
