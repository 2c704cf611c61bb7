"""Pre-train a ViT-S/16 with MoCo v3 on Sentinel-2 patches, as in the SSL4EO-S12 paper.

Run: torchrun --nproc-per-node 4 recipes/moco_vits16.py --data URL --output runs/moco_vits16
Target: linear probe on EuroSAT 97.7 % (Wang et al. 2023, arXiv:2211.07044, table III)
Ours: not yet measured
"""

from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.backbones import transformer_size, vision_transformer
from ssl4eo_stream.evaluate.knn import EuroSATNeighbours
from ssl4eo_stream.methods.moco_v3 import MoCoV3, MoCoV3Config
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run, from_command_line
from ssl4eo_stream.train.schedule import Schedule

RUN = Run(
    name="moco_vits16",
    backbone="vit_small_patch16",
    views=MoCoViews(
        size=224, crop_area=(0.08, 1.0), blur_probability=1.0, second_blur_probability=0.1
    ),
    method=MoCoV3Config(dim=256, hidden=4096, momentum=0.99, temperature=0.2),
    optimizer=Optimizer(name="adamw", lr=1.5e-4, weight_decay=0.1),
    schedule=Schedule(every="step", warmup_epochs=10),
    probe=EuroSATNeighbours(),
    batch_size=256,
    epochs=100,
)


def build(run: Run[MoCoV3Config], channels: int) -> MoCoV3:
    """Assemble the model that this recipe trains."""
    pixels = run.views.size
    size = transformer_size(run.backbone, image_pixels=pixels)
    vit = vision_transformer(size, in_channels=channels, image_pixels=pixels)
    return MoCoV3(vit, run.method)


if __name__ == "__main__":
    train(from_command_line(RUN), build)
