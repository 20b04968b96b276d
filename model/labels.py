"""The seven facial expressions of FER2013 in the order of its labels, and the size of its images.

Goodfellow et al. 2013, "Challenges in Representation Learning" (arXiv 1307.0414).
"""

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
NUM_LABELS = len(LABELS)
IMAGE_SIZE = 48
IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 1)
