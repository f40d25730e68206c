"""``kdnb train``. torch is imported when they run, so that help is quick."""

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command(short_help="Train a network by a method; 'kdnb list' shows them.")
@click.argument("method")
@click.option("--data", default="shapes", show_default=True, help="A name, a folder or an archive.")
@click.option("--student", default="resnet8", show_default=True, help="The network to train.")
@click.option("--teacher", help="A run's folder or network file; for shapes the shipped one.")
@click.option("-o", "options", multiple=True, metavar="name=value", help="An option of METHOD.")
@click.option("--labels", default=0, help="Training pictures to use; 0 is all.")
@click.option("--size", default=32, show_default=True, help="Pixels a side, for your own pictures.")
@click.option("--validation", default=0.1, show_default=True, help="Share held out of training.")
@click.option("--data-seed", default=0, show_default=True, help="Of splits, and of drawn data.")
@click.option("--epochs", default=40, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--lr", default=0.05, show_default=True)
@click.option("--weight-decay", default=5e-4, show_default=True)
@click.option("--schedule", default="cosine", show_default=True, help="cosine or benchmark.")
@click.option("--flip/--no-flip", default=True, show_default=True)
@click.option("--pad", default=4, show_default=True, help="Pixels to pad before random crops.")
@click.option("--padding", default="zero", show_default=True, help="zero or reflect.")
@click.option("--precision", default="auto", show_default=True, help="auto, fp32, bf16 or fp64.")
@click.option("--seed", default=0, show_default=True, help="Of weights, batches and dropout.")
@click.option("--evaluate-every", default=1, show_default=True, type=click.IntRange(min=1), help="In epochs.")
@click.option("--out", default="runs", type=click.Path(path_type=Path), show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), help="For downloads and archives.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--force", is_flag=True, help="Repeat a finished run, or restart an interrupted one.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON, for scripts.")
def train(
    options: tuple[str, ...],
    out: Path,
    data_root: Path | None,
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
    from kdnb.errors import InputError
    from kdnb.runs.running import leads, run
    from kdnb.runs.spec import Spec, with_options
    from kdnb.train import NotFinite

    spec = with_options(Spec(**settings), list(options))
    folder = out / spec.name
    if (folder / "run.json").exists() and not force and leads():
        click.echo(f"Already finished: {folder} (--force repeats it)", err=True)

    def report(row: dict[str, float]) -> None:
        terms = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if "/" in name)
        click.echo(f"epoch {row['epoch']}/{spec.epochs}  {row['seconds']:.0f} s  {terms}", err=True)

    try:
        record = run(
            spec,
            out=out,
            resume=resume,
            again=force,
            data_root=data_root,
            evaluate_every=evaluate_every,
            report=report,
        )
    except NotFinite as error:
        raise InputError(str(error)) from error
    except KeyboardInterrupt:
        if leads():
            click.echo(_how_to_go_on(folder), err=True)
        raise
    if not leads():
        return
    if as_json:
        click.echo(json.dumps(asdict(record)))
        return
    click.echo(f"{folder}  ({record.seconds:.0f} s)")
    for learner, metrics in record.metrics.items():
        click.echo(
            f"{learner}: test accuracy {metrics['last']:.2f} % at the last epoch, "
            f"{metrics['selected']:.2f} % at the validation-selected epoch "
            f"{metrics['selected_epoch']}, {metrics['best']:.2f} % at the best test epoch "
            f"{metrics['best_epoch']}"
        )


def _how_to_go_on(folder: Path) -> str:
    if not (folder / "state.json").exists():
        return "Stopped before the first epoch was finished: nothing is kept."
    return (
        f"Stopped. The last finished epoch is kept in {folder}; the same command with --resume "
        "goes on from there."
    )
