"""Synthetic labels with known probabilities, and the logits of models that are more or less good at them."""

import numpy as np

PREVALENCE = np.geomspace(0.02, 0.5, 20)


def sigmoid(logits):
    return np.exp(-np.logaddexp(0, -logits))


def centred(logits, prevalence):
    """Move each column so that its mean probability is the prevalence."""
    low, high = np.full(logits.shape[1], -99.0), np.full(logits.shape[1], 99.0)
    for _ in range(50):
        middle = (low + high) / 2
        above = sigmoid(logits + middle).mean(axis=0) > prevalence
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return logits + (low + high) / 2


def from_logits(draw):
    """The model knows the true logit, which `draw` gives."""

    def design(rng, shape, prevalence):
        logits = centred(draw(rng, shape), prevalence)
        return logits, rng.random(shape) < sigmoid(logits)

    return design


def noisy(rng, shape, prevalence):
    """The model sees the true logit with noise."""
    logits, labels = from_logits(lambda rng, shape: rng.normal(0, 3, shape))(rng, shape, prevalence)
    return logits + rng.normal(0, 1, shape), labels


def flipped(rng, shape, prevalence):
    """Annotators err about a twentieth of the yes, and about as many no."""
    logits, labels = from_logits(lambda rng, shape: rng.normal(0, 4, shape))(rng, shape, prevalence)
    return logits, labels ^ (rng.random(shape) < np.where(labels, 0.05, 0.05 * prevalence))


def easy_and_hard(rng, shape, prevalence):
    """Half of the yes are easy."""
    labels = rng.random(shape) < prevalence
    easy = rng.random(shape) < 0.5
    return 2 * (rng.normal(0, 1, shape) + labels * np.where(easy, 5, 1.5) - 2) + np.log(prevalence), labels


def unequal_spread(rng, shape, prevalence):
    """Class-conditional normal scores whose spreads differ: the true calibration curve is no sigmoid."""
    labels = rng.random(shape) < prevalence
    return 2 * (rng.normal(0, 1, shape) * np.where(labels, 1.3, 1) + 2 * labels - 1) + np.log(prevalence), labels


def capped(rng, shape, prevalence):
    """No image is surer than 95 %, whatever the model says."""
    logits = centred(rng.normal(0, 4, shape), prevalence)
    return logits, rng.random(shape) < 0.95 * sigmoid(logits)


def shared(rng, shape, prevalence):
    """The labels of an image depend on one another."""
    return from_logits(lambda rng, shape: 2.5 * rng.normal(0, 1, (shape[0], 1)) + rng.normal(0, 2.5, shape))(
        rng, shape, prevalence
    )


# The guard of `precision>=x` was chosen on the first group and left as it was for the second.
CHOSEN_ON = {
    "weak overlap": from_logits(lambda rng, shape: rng.normal(0, 6, shape)),
    "medium overlap": from_logits(lambda rng, shape: rng.normal(0, 4, shape)),
    "strong overlap": from_logits(lambda rng, shape: rng.normal(0, 2.5, shape)),
    "heavy tails": from_logits(lambda rng, shape: 3 * rng.standard_t(3, shape)),
    "noisy model": noisy,
    "flipped labels": flipped,
    "easy and hard": easy_and_hard,
    "unequal spread": unequal_spread,
}
UNSEEN = {
    "Laplace logits": from_logits(lambda rng, shape: rng.laplace(0, 2.5, shape)),
    "uniform logits": from_logits(lambda rng, shape: rng.uniform(-7, 7, shape)),
    "gamma logits": from_logits(lambda rng, shape: rng.gamma(1.5, 2.5, shape)),
    "capped": capped,
    "shared factor": shared,
    "mixed overlap": from_logits(lambda rng, shape: rng.normal(0, 1, shape) * rng.uniform(2.5, 6, shape[1])),
}


def synthetic(design, seed, rows=20_000, scale=2.5, shift=0.0, prevalence=PREVALENCE):
    """Return logits of an overconfident model, labels (half unknown, -100), complete labels; (rows, labels) each.

    Scale and shift may be a number or one per label.
    """
    rng = np.random.default_rng(seed)
    logits, labels = design(rng, (rows, len(prevalence)), prevalence)
    return scale * (logits + shift), np.where(rng.random(labels.shape) < 0.5, labels, -100), labels
