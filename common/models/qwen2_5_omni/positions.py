"""Three-row rotary positions of a prompt with video and audio as separate items (M-RoPE).

Text and audio advance all three rows together. A video patch has a temporal, a vertical and a horizontal position.
The next item starts one past the largest position of an item (Qwen2.5-Omni technical report).
"""

import numpy as np

from common.types import ProcessedPrompt


def prompt_positions(prompt: ProcessedPrompt, *, positions_per_second: int, merge_size: int) -> np.ndarray:
    """Positions of every prompt token: int64 [3, P] (temporal, vertical, horizontal). A completion continues at
    `max + 1`.

    `positions_per_second` counts temporal positions (25 in the released models); `merge_size` counts the patches
    per side of one token. The prompt's `video_second_per_grid` has the true frame rate.
    """
    rows: list[np.ndarray] = []
    cursor = next_position = 0
    for modality, (start, length) in sorted(prompt.placeholders.items(), key=lambda item: item[1][0]):
        rows.append(_advance(start - cursor, next_position))
        next_position += start - cursor
        if modality == "video":
            block = _video_block(prompt, positions_per_second=positions_per_second, merge_size=merge_size)
        else:
            block = _advance(length, 0)
        rows.append(block + next_position)
        next_position += int(block.max()) + 1
        cursor = start + length
    rows.append(_advance(len(prompt.prompt_token_ids) - cursor, next_position))
    return np.concatenate(rows, axis=1)


def _advance(length: int, first: int) -> np.ndarray:
    return np.broadcast_to(np.arange(first, first + length, dtype=np.int64), (3, length))


def _video_block(prompt: ProcessedPrompt, *, positions_per_second: int, merge_size: int) -> np.ndarray:
    grid_t, grid_h, grid_w = (int(n) for n in prompt.tensors["video_grid_thw"][0])
    block = np.indices((grid_t, grid_h // merge_size, grid_w // merge_size)).astype(np.int64)
    # the float32 value as the engine receives it, multiplied in double precision as the engine does
    per_grid = float(prompt.tensors["video_second_per_grid"][0]) * positions_per_second
    block[0] = (block[0] * per_grid).astype(np.int64)
    return block.reshape(3, -1)
