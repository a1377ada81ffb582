"""Which rows of a training set are payload and cover. Only scoring may know this: no defense imports the module."""

from collections.abc import Mapping

import numpy as np

__all__ = ["around_target", "received_labels"]


def received_labels(
    train_labels: np.ndarray, poisoned: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the training labels as received, and which rows are payload and cover."""
    labels = train_labels.copy()
    labels[poisoned["index"]] = poisoned["labels"]
    is_payload, is_cover = np.zeros((2, len(labels)), dtype=bool)
    is_payload[poisoned["index"]] = ~poisoned["is_cover"]
    is_cover[poisoned["index"]] = poisoned["is_cover"]
    return labels, is_payload, is_cover


def around_target(
    train_labels: np.ndarray, poisoned: Mapping[str, np.ndarray], target: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with the target label as received and all cover rows, and the kind of each.

    The kinds are payload, cover and clean. Cover rows keep their own label.
    """
    labels, is_payload, is_cover = received_labels(train_labels, poisoned)
    rows = np.flatnonzero((labels == target) | is_cover)
    return rows, np.where(is_payload, "payload", np.where(is_cover, "cover", "clean"))[rows]
