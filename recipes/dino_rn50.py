"""Pre-train a ResNet-50 with DINO on Sentinel-2 patches, as in the SSL4EO-S12 paper.

Run: torchrun --nproc-per-node 4 recipes/dino_rn50.py --data URL --output runs/dino_rn50
Target: linear probe on EuroSAT 97.2 % (Wang et al. 2023, arXiv:2211.07044, table III)
Ours: not yet measured
"""

from ssl4eo_stream.augment.views import DINOViews
from ssl4eo_stream.backbones import resnet
from ssl4eo_stream.evaluate.knn import EuroSATNeighbours
from ssl4eo_stream.methods.dino import DINO, DINOConfig
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run, from_command_line
from ssl4eo_stream.train.schedule import Schedule

RUN = Run(
    name="dino_rn50",
    backbone="resnet50",
    views=DINOViews(
        size=224, crop_area=(0.14, 1.0), local_crops=8, local_size=96, local_area=(0.05, 0.14)
    ),
    method=DINOConfig(prototypes=65_536, momentum=0.996, drop_path=0.0),
    optimizer=Optimizer(
        name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-4, decayed="matrices", clip=3.0,
        clip_each=True, batch_rule="linear",
    ),
    schedule=Schedule(every="step", warmup_epochs=10, warmup_reaches_base=True, floor=1e-6),
    probe=EuroSATNeighbours(),
    batch_size=256,
    epochs=100,
)  # fmt: skip


def build(run: Run[DINOConfig], channels: int) -> DINO:
    """Assemble the model that this recipe trains."""
    return DINO(resnet(run.backbone, in_channels=channels), run.method)


if __name__ == "__main__":
    train(from_command_line(RUN), build)
