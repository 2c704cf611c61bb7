"""The golden vectors' tiny transformers, and how their tensors are called."""

from ssl4eo_stream.backbones import TransformerSize, vision_transformer


def tiny_vit(config, **options):
    size = TransformerSize(
        patch=config["patch"], dim=config["dim"], depth=config["depth"], heads=config["heads"]
    )
    side = config["img"] if "img" in config else config["g"]
    return vision_transformer(size, in_channels=13, image_pixels=side, **options)
