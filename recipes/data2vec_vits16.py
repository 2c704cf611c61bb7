"""Pre-train a ViT-S/16 with data2vec on Sentinel-2 patches, as in the SSL4EO-S12 paper.

Run: torchrun --nproc-per-node 4 recipes/data2vec_vits16.py --data URL --output runs/data2vec
Target: linear probe on EuroSAT 96.9 % (Wang et al. 2023, arXiv:2211.07044, table III)
Ours: not yet measured
"""

from ssl4eo_stream.augment.views import OneView
from ssl4eo_stream.backbones import transformer_size
from ssl4eo_stream.evaluate.knn import EuroSATNeighbours
from ssl4eo_stream.methods.data2vec import Data2Vec, Data2VecConfig, student_backbone
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run, from_command_line
from ssl4eo_stream.train.schedule import Schedule

RUN = Run(
    name="data2vec_vits16",
    backbone="vit_small_patch16",
    views=OneView(size=224, crop_area=(0.2, 1.0)),
    method=Data2VecConfig(masked=120, target_layers=6, beta=2.0, momentum=0.9998),
    optimizer=Optimizer(
        name="adamw", lr=1e-3, weight_decay=0.05, decayed="matrices", undecayed=("cls_token",),
        clip=3.0,
    ),
    schedule=Schedule(every="step", warmup_epochs=10, warmup_reaches_base=True, floor=1e-5),
    probe=EuroSATNeighbours(),
    batch_size=256,
    epochs=100,
)  # fmt: skip


def build(run: Run[Data2VecConfig], channels: int) -> Data2Vec:
    """Assemble the model that this recipe trains."""
    pixels = run.views.size
    size = transformer_size(run.backbone, image_pixels=pixels)
    vit = student_backbone(size, run.method, in_channels=channels, image_pixels=pixels)
    return Data2Vec(vit, run.method)


if __name__ == "__main__":
    train(from_command_line(RUN), build)
