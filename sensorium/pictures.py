"""Pictures of any size in the form of a mouse's frames."""

import numpy as np
from numpy.typing import NDArray


def fit_picture(picture: NDArray[np.float32], frame_shape: tuple[int, int]) -> NDArray[np.float32]:
    """Cut the middle of a picture to the aspect of the frames, and scale it to their size without aliasing.

    Args:
        picture: (rows, columns) of any size.
        frame_shape: rows and columns of the frames, pixels.

    Returns:
        (rows, columns) of `frame_shape`; a picture of that size is returned as it is.
    """
    from skimage.transform import resize

    picture = _crop(picture, frame_shape)
    if picture.shape == frame_shape:
        return picture
    scaled: NDArray[np.float32] = resize(picture, frame_shape, anti_aliasing=True).astype(np.float32)
    return scaled


def _crop(picture: NDArray[np.float32], frame_shape: tuple[int, int]) -> NDArray[np.float32]:
    rows, columns = picture.shape
    scale = min(rows / frame_shape[0], columns / frame_shape[1])
    height, width = max(1, round(frame_shape[0] * scale)), max(1, round(frame_shape[1] * scale))
    top, left = (rows - height) // 2, (columns - width) // 2
    return picture[top : top + height, left : left + width]
