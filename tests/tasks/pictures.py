"""Small signals to fit, as arrays and as files."""

import imageio.v3 as iio
import numpy as np


def smooth_image(height=16, width=20, channels=3):
    """Slow waves, (H, W, C) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(3 * x / width + c) * np.cos(4 * y / height - c) for c in range(channels)]
    return np.rint(127.5 + 110 * np.stack(waves, axis=-1)).astype(np.uint8)


def write_image(path, height=16, width=20, channels=3):
    image = smooth_image(height, width, channels)
    iio.imwrite(path, image[..., 0] if channels == 1 else image)
    return path


def write_sound(path, seconds=0.05, rate=8000, channels=1):
    import soundfile  # which a GPU's bare machine may lack

    t = np.arange(int(seconds * rate)) / rate
    waves = [0.5 * np.sin(2 * np.pi * (200 + 90 * c) * t) for c in range(channels)]
    soundfile.write(path, np.stack(waves, axis=-1).astype(np.float32), rate, subtype="PCM_16")
    return path


def write_film(path, frames=6, size=16, fps=10):
    pictures = [np.roll(smooth_image(size, size), 2 * i, axis=1) for i in range(frames)]
    iio.imwrite(path, np.stack(pictures), fps=fps, codec="libx264", macro_block_size=1, output_params=["-crf", "5"])
    return path
