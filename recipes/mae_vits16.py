"""Pre-train a ViT-S/16 as a masked autoencoder of Sentinel-2 patches, as in the SSL4EO-S12 paper.

Run: torchrun --nproc-per-node 4 recipes/mae_vits16.py --data URL --output runs/mae_vits16
Target: linear probe on EuroSAT 94.1 % (Wang et al. 2023, arXiv:2211.07044, table III)
Ours: not yet measured
"""

from ssl4eo_stream.augment.views import OneView
from ssl4eo_stream.backbones import transformer_size, vision_transformer
from ssl4eo_stream.evaluate.knn import EuroSATNeighbours
from ssl4eo_stream.methods.mae import MAE, MAEConfig
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run, from_command_line
from ssl4eo_stream.train.schedule import Schedule

RUN = Run(
    name="mae_vits16",
    backbone="vit_small_patch16",
    views=OneView(size=224, crop_area=(0.2, 1.0)),
    method=MAEConfig(mask=0.7, decoder_dim=512, decoder_depth=8, decoder_heads=16),
    optimizer=Optimizer(
        name="adamw", lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, decayed="matrices",
        batch_rule="linear",
    ),
    schedule=Schedule(every="step", warmup_epochs=10),
    probe=EuroSATNeighbours(),
    batch_size=256,
    epochs=100,
)  # fmt: skip


def build(run: Run[MAEConfig], channels: int) -> MAE:
    """Assemble the model that this recipe trains."""
    pixels = run.views.size
    size = transformer_size(run.backbone, image_pixels=pixels)
    vit = vision_transformer(size, in_channels=channels, image_pixels=pixels)
    return MAE(vit, run.method, in_channels=channels)


if __name__ == "__main__":
    train(from_command_line(RUN), build)
