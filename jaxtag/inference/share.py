"""The part of a list of images that a process predicts."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Share:
    """Images from `start` on, dealt in blocks to processes in turns; by default all images.

    Batches are those of the whole list, so that no row depends on how the list is shared.

    Attributes:
        start: images before it are done; a multiple of `block`.
        block: images in a block: a multiple of the batch size, unless one process has all.
        index: of this process.
        count: number of processes.
    """

    start: int = 0
    block: int = 1
    index: int = 0
    count: int = 1

    def batch_numbers(self, num_images: int, batch_size: int) -> list[int]:
        """The numbers of the batches of this process, ascending."""
        batches = range(self.start // batch_size, -(-num_images // batch_size))
        return [b for b in batches if b * batch_size // self.block % self.count == self.index]
