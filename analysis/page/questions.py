"""The question that each kind of result answers, and how to read the answer."""

from __future__ import annotations

from typing import NamedTuple


class Question(NamedTuple):
    """A section of the page."""

    title: str
    reading: str


#: kind of result -> its section, in the order of the page
QUESTIONS = {
    "robustness": Question(
        "How accurate is it, clean and attacked?",
        "Each bar is a share of images classified correctly, with its 95 % Wilson interval. "
        "An attack gives an upper bound of robust accuracy: only a stronger attack can lower "
        "it. Robust accuracy that hardly falls with the budget, or that falls under transfer, "
        "is a sign of masked gradients.",
    ),
    "budgets": Question(
        "Which training budget holds up at which test budget?",
        "A row per network, a column per test budget. A network that was trained at a larger "
        "budget should lose less from left to right; it often begins lower.",
    ),
    "corruptions": Question(
        "Does robustness to attacks help against natural corruptions?",
        "Accuracy by corruption and severity. Networks of adversarial training often gain on "
        "noise and lose on fog and contrast.",
    ),
    "hessian": Question(
        "Is the minimum sharp?",
        "Eigenvalues of the second derivative of the loss by the weights, largest first: how fast "
        "the loss bends along one direction, in nat per squared unit of weight. A few outliers "
        "above a bulk near 0 are usual. Negative ones say that this is no minimum. Rescaling "
        "layers changes these numbers: compare networks of one architecture only.",
    ),
    "sharpness": Question(
        "Which measures call it sharp?",
        "Several measures of sharpness, each with its standard error. Only those in bold keep "
        "their value when layers are rescaled: the others cannot compare networks of two scales.",
    ),
    "ranking": Question(
        "Which sharpness measure follows the generalisation gap?",
        "Kendall's tau between a measure and the gap over networks: 1 is the same order, 0 "
        "none, -1 the reverse. An interval that holds 0 is no evidence.",
    ),
    "scan": Question(
        "What does the loss look like around the weights?",
        "The loss along one or two directions through the weights at 0. All surfaces share "
        "one colour range and one height range, so the same colour is the same loss. A network "
        "has as many directions as weights, and one or two of them are a slice: a smooth slice "
        "does not prove a smooth landscape.",
    ),
    "curve": Question(
        "Are the minima connected?",
        "The loss on the straight line and on the trained curve. The barrier is the largest "
        "rise above the chord between the ends. A curve without barrier says that the minima "
        "share a valley.",
    ),
    "trajectory": Question(
        "Has it overfitted, and did curvature tell?",
        "Robust accuracy and curvature by epoch. Robust overfitting is a falling test curve "
        "while the training curve still rises.",
    ),
    "metrics": Question(
        "How did training go?",
        "Loss and accuracy of a run by epoch, as its metrics file has them. A training curve that "
        "improves while the test curve gets worse is overfitting. A budget that grows makes the "
        "attacked loss rise without harm.",
    ),
    "overfitting": Question(
        "How much does each method lose from its best to its last epoch?",
        "Robust test accuracy by method; the gap is best minus last, over seeds with its 95 % "
        "interval. A best epoch that was chosen on the test set flatters.",
    ),
    "similarity": Question(
        "Do networks find the same perturbations?",
        "Mean cosine between the perturbations of two networks. The diagonal compares two "
        "draws of one network: nothing can be more alike than this noise floor.",
    ),
    "adversaries": Question(
        "What do the perturbations look like?",
        "Perturbations of the first images, grey is 0, black and white are the largest "
        "change. Perturbations of robust networks follow the object, others look like noise.",
    ),
    "scattering": Question(
        "How do perturbations and gradients change when the weights move?",
        "Similarity of perturbations, and the change of the gradient, against the distance "
        "from the weights. The frozen part comes from the weights alone, the moving part from "
        "images that were attacked anew.",
    ),
    "generator": Question(
        "Does the generator still find adversaries?",
        "Strength 1 fools as many images as the strong attack, 0 as many as random signs. A "
        "fall to 0 together with rising accuracy under its images is a collapse.",
    ),
    "cka": Question(
        "Are the features alike?",
        "Centred kernel alignment between layers: 1 is the same up to rotation and scale. "
        "Small minibatches give noisy values, which can be negative.",
    ),
    "pairs": Question(
        "How alike are the networks, two by two?",
        "Distance of weights, cosine of perturbations, barrier and CKA of every pair. "
        "Distances ignore that hidden units can be permuted: align networks first.",
    ),
    "distance": Question(
        "How far apart are the weights?",
        "Euclidean distance by parameter, and relative to the norm of the first network's.",
    ),
    "fourier": Question(
        "Which frequencies hurt?",
        "Error rate when one Fourier wave is added to every image; low frequencies are in the "
        "middle. The second figure has the accuracy on images that keep only low or only high "
        "frequencies.",
    ),
    "spectrum": Question(
        "Which frequencies do the filters hold?",
        "Energy of the kernels over the discrete cosine basis, averaged over a layer. White "
        "noise is even over all cells: compare the high share with the white one.",
    ),
    "spectral_bias": Question(
        "Do filters of high frequency go with less robustness?",
        "One point per network, with Spearman's rank correlation and its interval. Few "
        "networks make wide intervals.",
    ),
}
