"""Pre-train a ViT-S/16 with DINO on Sentinel-2 patches, as in the SSL4EO-S12 paper.

Run: torchrun --nproc-per-node 4 recipes/dino_vits16.py --data URL --output runs/dino_vits16
Target: linear probe on EuroSAT 97.7 % (Wang et al. 2023, arXiv:2211.07044, table III)
Ours: not yet measured
"""

from ssl4eo_stream.augment.views import DINOViews
from ssl4eo_stream.backbones import transformer_size, vision_transformer
from ssl4eo_stream.evaluate.knn import EuroSATNeighbours
from ssl4eo_stream.methods.dino import DINO, DINOConfig
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run, from_command_line
from ssl4eo_stream.train.schedule import Schedule

RUN = Run(
    name="dino_vits16",
    backbone="vit_small_patch16",
    views=DINOViews(
        size=224, crop_area=(0.4, 1.0), local_crops=8, local_size=96, local_area=(0.05, 0.4)
    ),
    method=DINOConfig(prototypes=65_536, momentum=0.996, drop_path=0.1),
    optimizer=Optimizer(
        name="adamw", lr=1.5e-4, weight_decay=0.04, weight_decay_end=0.4, decayed="matrices",
        clip=3.0, clip_each=True, batch_rule="linear",
    ),
    schedule=Schedule(every="step", warmup_epochs=10, warmup_reaches_base=True, floor=1e-6),
    probe=EuroSATNeighbours(),
    batch_size=256,
    epochs=100,
)  # fmt: skip


def build(run: Run[DINOConfig], channels: int) -> DINO:
    """Assemble the model that this recipe trains."""
    pixels, drop = run.views.size, run.method.drop_path
    size = transformer_size(run.backbone, image_pixels=pixels)
    vit = vision_transformer(size, in_channels=channels, image_pixels=pixels, drop_path=drop)
    return DINO(vit, run.method)


if __name__ == "__main__":
    train(from_command_line(RUN), build)
