"""Pre-train a ResNet-50 with MoCo v2 on Sentinel-2 patches, as in the SSL4EO-S12 paper.

Run: torchrun --nproc-per-node 4 recipes/moco_rn50.py --data URL --output runs/moco_rn50
Target: linear probe on EuroSAT 98.0 % (Wang et al. 2023, arXiv:2211.07044, table III)
Ours: not yet measured
"""

from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.backbones import resnet
from ssl4eo_stream.evaluate.knn import EuroSATNeighbours
from ssl4eo_stream.methods.moco import MoCo, MoCoConfig
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run, from_command_line
from ssl4eo_stream.train.schedule import Schedule

RUN = Run(
    name="moco_rn50",
    backbone="resnet50",
    views=MoCoViews(size=224),
    method=MoCoConfig(dim=128, queue=65_536, momentum=0.999, temperature=0.2, batch_norm_groups=4),
    optimizer=Optimizer(lr=0.03, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule(every="epoch"),
    probe=EuroSATNeighbours(),
    batch_size=256,
    epochs=100,
)


def build(run: Run[MoCoConfig], channels: int) -> MoCo:
    """Assemble the model that this recipe trains."""
    return MoCo(resnet(run.backbone, in_channels=channels), run.method)


if __name__ == "__main__":
    train(from_command_line(RUN), build)
