"""A view computed slowly: float64 throughout, every step a matrix or a formula, rounded once."""

import numpy as np


def bilinear_matrix(source, target):
    """(target, source) weights of linear interpolation, pixel centres at half integers."""
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    centres = np.clip(centres, 0, source - 1)
    low = np.floor(centres).astype(int)
    high = np.minimum(low + 1, source - 1)
    matrix = np.zeros((target, source))
    for row in range(target):
        matrix[row, low[row]] += 1 - (centres[row] - low[row])
        matrix[row, high[row]] += centres[row] - low[row]
    return matrix


def resize(patch, size):
    return bilinear_matrix(len(patch), size) @ patch @ bilinear_matrix(patch.shape[1], size).T


def adjust(patch, brightness, contrast):
    """Brightness, then contrast about the brightened mean; the only clipping is at the end."""
    brightened = brightness * patch
    mean = brightened.mean()
    return np.clip((brightened - mean) * contrast + mean, 0, 255)


def blur_matrix(size, sigma):
    """(size, size) weights of a Gaussian cut at three deviations, mirrored without the edge."""
    reach = (round(6 * sigma + 1) | 1) // 2
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    for row in range(size):
        for offset, weight in zip(offsets, weights, strict=True):
            column = abs(row + offset)
            matrix[row, min(column, 2 * (size - 1) - column)] += weight
    return matrix


def blur(plane, sigma):
    return blur_matrix(len(plane), sigma) @ plane @ blur_matrix(plane.shape[1], sigma).T


def render(planes, parameters, size, jitter_first=True):
    """The view of `parameters` as float64 (C, size, size), before the last rounding.

    `jitter_first=False` changes brightness and contrast after resampling, as the released code.
    """
    p = parameters
    bands = []
    for plane in planes:
        step = len(plane) // p.box.cells
        patch = plane.astype(np.float64)[
            p.box.top * step : (p.box.top + p.box.height) * step,
            p.box.left * step : (p.box.left + p.box.width) * step,
        ]
        if jitter_first:
            band = resize(adjust(patch, p.brightness, p.contrast), size)
        else:
            band = adjust(resize(patch, size), p.brightness, p.contrast)
        bands.append(band)
    view = np.stack(bands)
    if p.gray:
        view[:] = view.mean(axis=0)
    if p.blur_sigma > 0:
        view = np.stack([blur(plane, p.blur_sigma) for plane in view])
    return view[:, :, ::-1] if p.flip else view
