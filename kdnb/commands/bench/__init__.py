"""``kdnb bench``. torch is imported when it runs, so that help is quick."""

import json

import click

KINDS = ("networks", "methods", "groups", "joint", "crd", "busy")  # all of them are "all"
LEAST = 40  # pictures of ten classes that can be split
ON_REQUEST = ("gpu", "study", "data", "memory")


@click.command(short_help="Measure training speed on this machine.")
@click.argument("what", default="all", type=click.Choice([*KINDS, *ON_REQUEST, "all"]))
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(min=2), help="Of networks.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--pictures",
    default="1000,3000",
    show_default=True,
    metavar="N,...",
    help="Of memory: how many; of data: the first.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line a row, for scripts.")
def bench(what: str, batch_size: int, rounds: int, pictures: str, as_json: bool) -> None:
    """Time training steps against plain fp32 ones in the same run, and print ratios.

    networks: ms at auto precision; ratio: plain fp32 over it, with the range over the rounds;
    matmul_%: of the machine's matrix-product rate; loading_%: share spent on making batches.

    methods: resnet32x4 teaches resnet8x4, batch 64. multiple: of the student's own plain fp32 step;
    over_parts: of the student's step plus the teacher's forward pass, both at auto precision;
    memory: of the student's own step, counted.

    groups: several resnet32 learn together, batch 128. multiple: of one network's plain fp32 step;
    over_parts: of as many steps of one network alone at auto precision.

    joint: ECD of a resnet20, and DDNN of a resnet56 with three sub-nets, batch 128. multiple: of
    that network's plain fp32 step; over_parts: of the steps of all its networks, each alone.

    crd: resnet32x4 teaches resnet8x4, batch 64, with memories of 50,000 images and 16,384 negatives.
    over_kd: the step as a multiple of the step of KD with the same networks.

    busy: resnet8 on the CPU, batch 64, beside one fully busy process. multiple: of a step with no other
    process, each thread on a core of its own, as training does it; free_multiple: the same where the
    system places the threads.

    gpu: whole epochs on a GPU, eager, as one CUDA graph a step, and compiled; not part of all.
    busy_%: of the time in which the GPU computes; hours: for 240 and 300 epochs of CIFAR.

    study: twelve short runs of resnet8 as a shell loop, as a study, and as a study whose workers are
    killed; not part of all. idle_%: of the cores' time; overhead_s: of a worker beside training, a run.

    data: pictures a second of streaming and of the cache, from a folder of 256-pixel JPEGs that is made
    for it; times: those of torchvision's ImageFolder with a DataLoader. Not part of all.

    memory: what such folders of --pictures fill in memory, in a cache and streamed. Not part of all.
    """
    from kdnb.commands.bench.busy import busy_steps
    from kdnb.commands.bench.crd import contrast_steps
    from kdnb.commands.bench.data import data_speed
    from kdnb.commands.bench.gpu import gpu_steps
    from kdnb.commands.bench.memory import memory_rows
    from kdnb.commands.bench.steps import distillation_steps, group_steps, joint_steps, table, training_steps
    from kdnb.commands.bench.studies import study_runs

    numbers = _numbers(pictures)
    measured = {
        "networks": lambda: training_steps(batch_size=batch_size, rounds=rounds),
        "methods": lambda: distillation_steps(rounds=rounds),
        "groups": lambda: group_steps(rounds=rounds),
        "joint": lambda: joint_steps(rounds=rounds),
        "crd": lambda: contrast_steps(rounds=rounds),
        "busy": lambda: busy_steps(rounds=rounds),
        "gpu": gpu_steps,
        "study": study_runs,
        "data": lambda: data_speed(pictures=numbers[0], rounds=rounds),
        "memory": lambda: memory_rows(numbers),
    }
    for kind in KINDS if what == "all" else (what,):
        rows = []
        for row in measured[kind]():
            rows.append(row)
            if as_json:
                click.echo(json.dumps(row))
        if not as_json:
            click.echo(table(rows))


def _numbers(words: str) -> list[int]:
    """Numbers of pictures in ascending order."""
    try:
        numbers = sorted(int(word) for word in words.split(","))
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < LEAST:
        raise click.BadParameter(f"{words!r} is not a list of numbers from {LEAST} on, such as 1000,3000.")
    return numbers
