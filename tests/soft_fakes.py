"""A proposal network of three soft masks, for --masks soft_fakes:open_thirds."""

import numpy as np

from ovseg_model.proposals.soft import SoftProposals


class Thirds:
    """Upper, middle and lower third of an image, soft at 0.9 and 0.42; it knows the first class best, everywhere."""

    name, batch_size = "thirds", 4

    def propose(self, images):
        raise NotImplementedError

    def propose_soft(self, images, class_vectors_KD):
        return [self._propose(image.pixels_HW3.shape[:2], len(class_vectors_KD)) for image in images]

    @staticmethod
    def _propose(size, classes):
        masks = np.full((3, *size), 0.05, np.float32)
        for number, rows in enumerate(np.array_split(np.arange(size[0]), 3)):
            masks[number, rows] = 0.9
            masks[number, rows[:4]] = 0.42
        probability = np.full((3, classes), 0.5 / classes, np.float32)
        probability[:, 0] = 0.5
        return SoftProposals(masks, probability)


def open_thirds():
    return Thirds()


class Fails(Thirds):
    """No proposals of the second image."""

    def propose_soft(self, images, class_vectors_KD):
        from ovseg_model.proposals import ProposalError

        found = super().propose_soft(images, class_vectors_KD)
        return [
            ProposalError("proposal_failed", "it is the second") if "11000001" in image.image_id else each
            for image, each in zip(images, found, strict=True)
        ]


def open_failing():
    return Fails()
