"""What a run is: one frozen value that a recipe writes out and the command line overrides."""

import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

import tyro

from ssl4eo_stream.backbones import BackboneName
from ssl4eo_stream.errors import Ssl4eoError
from ssl4eo_stream.stream.select import Selection
from ssl4eo_stream.stream.setup import Reading
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.schedule import Schedule

M = TypeVar("M")

MACHINE_FIELDS = frozenset(
    {"data", "reading", "output", "workers", "render", "device", "resume", "log_every", "max_steps",
     "checkpoint_minutes", "checkpoint_keep", "checkpoint_keep_epochs", "compile", "probe",
     "picture_steps"}
)  # fmt: skip
"""Fields that say where and how a run goes, not what comes out of it."""


@dataclass(frozen=True, kw_only=True)
class Run(Generic[M]):
    """One pre-training run; M is the method's configuration."""

    name: str
    """What the run is called in logs and checkpoints."""
    data: tuple[str, ...] = tyro.MISSING
    """Folder of shards: s3://…, gs://…, az://…, http(s)://…, or a path; or one for each of several
    products, whose channels are joined."""
    output: Path = tyro.MISSING
    """Folder for checkpoints, metrics.jsonl and tensorboard; shared by all nodes."""
    select: Selection = field(default_factory=Selection)
    """Which part of the data an epoch goes over."""
    reading: Reading = field(default_factory=Reading)
    """Prefetch, local cache, and what happens where a sample cannot be read."""
    views: Any
    """What the method sees of a location; see ssl4eo_stream.augment.views."""
    method: M
    """What defines the method."""
    optimizer: Optimizer
    """How parameters move."""
    schedule: Schedule
    """How the learning rate moves."""
    backbone: BackboneName = "resnet50"
    """The network to train, of the kinds that the recipe takes."""
    batch_size: int = 256
    """Locations per step over all ranks together; each rank takes an equal part."""
    accumulate: int = 1
    """Parts that a rank's share of a batch is trained on in, one after the other, to save memory.
    Batch norms, and losses that compare samples with each other, see only one part at a time."""
    epochs: int = 100
    """Passes over all locations."""
    seed: int = 0
    """Decides initialization, order and augmentation."""
    workers: int = 8
    """Loader processes per rank; 0 loads in the training process."""
    render: Literal["workers", "device"] = "workers"
    """Who makes the views: workers, or the device from what workers have only decoded, for machines
    with few cores per GPU. Both draw the same; pixels differ by one grey level here and there."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where to train; auto takes CUDA where there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Autocast of the networks; auto is bf16 on CUDA and fp32 on a CPU. Losses, queues and
    weights stay fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch.compile makes the networks' kernels; auto is on on CUDA, off on a CPU. The
    first step of every shape then takes a minute or two."""
    probe: Any = None
    """A task that the features are asked while they are trained; see ssl4eo_stream.evaluate."""
    picture_steps: int = 1000
    """Steps between two sets of pictures in TensorBoard; the first step has one too. 0 for none."""
    resume: Literal["auto", "never"] | Path = "auto"
    """auto goes on from the newest checkpoint in the output that loads; never wants an output
    without checkpoints; a path goes on from that file."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints; 0 saves after every step. One is also saved at the end and at
    SIGTERM, SIGUSR1 or Ctrl-C."""
    checkpoint_keep: int = 2
    """How many of the newest checkpoints stay."""
    checkpoint_keep_epochs: int = 25
    """Every checkpoint at the end of so many epochs is saved and stays."""
    log_every: int = 20
    """Steps between two lines of progress; the only steps at which the GPU is waited for."""
    max_steps: int | None = None
    """Stop after so many steps although epochs are left; the schedule still spans all epochs."""

    def __post_init__(self) -> None:
        least = {
            "batch_size": 1, "accumulate": 1, "epochs": 1, "seed": 0, "workers": 0,
            "checkpoint_minutes": 0, "checkpoint_keep": 1, "checkpoint_keep_epochs": 1,
            "log_every": 1, "max_steps": 1, "picture_steps": 0,
        }  # fmt: skip
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}; it must be at least {smallest}.")
        if self.render == "device" and self.select.sensor_drop:
            raise ValueError("--select.sensor-drop needs --render workers: they leave sensors out.")
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"--schedule.warmup-epochs {self.schedule.warmup_epochs} leaves nothing of "
                f"--epochs {self.epochs}; the warm-up must be shorter than the run."
            )

    def batch_per_rank(self, world_size: int) -> int:
        """Return the locations that each of `world_size` ranks takes per step.

        Raises:
            ValueError: The global batch does not divide by the number of ranks.
        """
        if self.batch_size % world_size:
            nearest = max(1, round(self.batch_size / world_size)) * world_size
            raise ValueError(
                f"--batch-size {self.batch_size} is the global batch and does not divide by "
                f"{world_size} ranks. The nearest that does is --batch-size {nearest}."
            )
        own = self.batch_size // world_size
        if own % self.accumulate:
            raise ValueError(
                f"--accumulate {self.accumulate} does not divide a rank's {own} samples per step. "
                f"Give a divisor of {own}."
            )
        return own

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain JSON values."""
        return json.loads(json.dumps(asdict(self), default=str))


def from_command_line(run: Run[M], *, arguments: Sequence[str] | None = None) -> Run[M]:
    """Return the run with the fields that the command line overrides; exits on a wrong flag.

    From then on, what a user can mend (an unreadable URL, a batch that does not divide) ends the
    script with one line; other errors have a traceback as ever.

    Args:
        run: The recipe's values. `data` and `output` may be missing: then their flags are required.
        arguments: What stands behind the program's name; `sys.argv` if not given.
    """
    description = sys.modules["__main__"].__doc__ or run.name
    kind = Run[type(run.method)]
    if arguments is None:
        sys.excepthook = tell
    return tyro.cli(kind, default=run, args=arguments, description=description)


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line what this package found wrong, and show the way to anything else."""
    frames = traceback.extract_tb(trace)
    package = str(Path(__file__).parent.parent)
    ours = bool(frames) and frames[-1].filename.startswith(package)
    if isinstance(error, Ssl4eoError) or (ours and isinstance(error, ValueError | ArithmeticError)):
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {error}\n")
    else:
        sys.__excepthook__(kind, error, trace)
