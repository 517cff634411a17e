"""From a picture of any size to the array that a network takes. Pillow does the resizing; it is in the extra [demo]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SIZE", "crop", "import_pillow", "preprocess", "to_rgb"]

#: Side of the square that the networks were trained on, and the short side a picture is brought to before the cut.
SIZE, _SHORT_SIDE = 224, 256

#: A picture longer than this many times its short side is cut first: the rest never reaches the square.
_LONGEST = 8

#: The fix where there are none.
_EMPTY = "check how it was read or cut"


def import_pillow() -> Any:
    """`PIL.Image`, or an ImportError that tells the command."""
    try:
        from PIL import Image, ImageOps  # noqa: F401  (ImageOps is reached through the package)
    except ImportError as error:
        raise ImportError(f"pictures need Pillow ({error}); install it with: pip install 'dwcpu[demo]'") from None
    return Image


def crop(image: Any) -> Image.Image:
    """The part of a picture that a network sees: short side to 256 (bilinear), centre cut to 224 x 224.

    Parameters
    ----------
    image : ndarray or PIL image
        uint8 (H, W, 3), (H, W, 4) with alpha, (H, W) or (H, W, 1) grey; or a Pillow image of any mode. Transparent
        parts become white.

    Returns
    -------
    PIL.Image.Image
        RGB, 224 x 224.

    Raises
    ------
    TypeError, ValueError
        Not a picture; the text says what was got.
    """
    picture = to_rgb(image)
    width, height = picture.size
    if max(width, height) > _LONGEST * min(width, height):
        keep = _LONGEST * min(width, height)
        left, top = max(0, (width - keep) // 2), max(0, (height - keep) // 2)
        picture = picture.crop((left, top, left + min(width, keep), top + min(height, keep)))
        width, height = picture.size
    short = min(width, height)
    width, height = _SHORT_SIDE * width // short, _SHORT_SIDE * height // short
    picture = picture.resize((width, height), import_pillow().Resampling.BILINEAR)
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    return picture.crop((left, top, left + SIZE, top + SIZE))


def preprocess(image: Any, mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """`crop`, then ``(value - mean) / std`` for each colour.

    Returns
    -------
    ndarray
        float32 (1, 224, 224, 3), C-contiguous.
    """
    values = np.asarray(crop(image), dtype=np.float32)[None]
    return (values - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def to_rgb(image: Any) -> Image.Image:
    """A picture or an array as RGB, what is transparent on white, and the right way up.

    Raises
    ------
    TypeError, ValueError
        It is no picture of 8 or 16 bits a colour.
    """
    pillow = import_pillow()
    if isinstance(image, np.ndarray):
        picture = _from_array(image, pillow)
    elif isinstance(image, pillow.Image):
        from PIL import ImageOps

        picture = ImageOps.exif_transpose(image)
        if picture.mode.startswith("I;16"):  # 16-bit grey: Pillow's own conversion would clip it to white
            picture = pillow.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        elif picture.mode in {"I", "F"}:
            raise ValueError(
                f"preprocess: image has Pillow mode {picture.mode!r}; 8 or 16 bits a colour are needed; bring its "
                f"values to 0 to 255 and give them as a uint8 array"
            )
    else:
        raise TypeError(
            f"preprocess: image is a {type(image).__name__}; a uint8 array or a Pillow image is needed; open a file "
            f"with PIL.Image.open(path), give several pictures one by one"
        )
    if 0 in picture.size:
        raise ValueError(f"preprocess: image has size {picture.size}; at least one pixel is needed; {_EMPTY}")
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = pillow.alpha_composite(pillow.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _from_array(image: np.ndarray, pillow: Any) -> Image.Image:
    if 0 in image.shape:
        raise ValueError(f"preprocess: image has shape {image.shape}; at least one pixel is needed; {_EMPTY}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in {3, 4})):
        if image.ndim == 3 and image.shape[0] in {1, 3, 4}:
            fix = "give np.moveaxis(image, 0, 2)"
        elif image.ndim == 4:
            fix = "give pictures of a batch one by one, as image[0]"
        else:
            fix = "give three colours" + (", as image[..., :3]" if image.ndim == 3 and image.shape[2] > 4 else "")
        raise ValueError(
            f"preprocess: image has shape {image.shape}; (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is needed; {fix}"
        )
    if image.dtype != np.uint8:
        fix = {
            "bool": "255 * image.astype(np.uint8)",
            "uint16": "(image >> 8).astype(np.uint8)",
            "float32": "(255 * image).astype(np.uint8), if its values go to 1",
            "float64": "(255 * image).astype(np.uint8), if its values go to 1",
        }.get(image.dtype.name, "image.astype(np.uint8), if its values are those")
        raise ValueError(
            f"preprocess: image has dtype {image.dtype}; uint8 values from 0 to 255 are needed; give {fix}"
        )
    return pillow.fromarray(np.ascontiguousarray(image))
