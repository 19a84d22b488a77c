"""How good samples are: scores of sets of images beside real ones, what distilling cost, and the variational bound."""

from fewstep.evaluate.bound import Bound, variational_bound
from fewstep.evaluate.choice import choose
from fewstep.evaluate.features import Classifier, load_classifier
from fewstep.evaluate.frechet import Moments, frechet_distance
from fewstep.evaluate.likeness import Likeness, psnr
from fewstep.evaluate.neighbours import nearest
from fewstep.evaluate.precision_recall import Manifold, precision, recall
from fewstep.evaluate.real import Real, load_real
from fewstep.evaluate.report import Report
from fewstep.evaluate.run import Settings, evaluate, model_bound
from fewstep.evaluate.scores import Judge, Scores
from fewstep.evaluate.sliced_wasserstein import sliced_wasserstein

__all__ = [
    "Bound",
    "Classifier",
    "Judge",
    "Likeness",
    "Manifold",
    "Moments",
    "Real",
    "Report",
    "Scores",
    "Settings",
    "choose",
    "evaluate",
    "frechet_distance",
    "load_classifier",
    "load_real",
    "model_bound",
    "nearest",
    "precision",
    "psnr",
    "recall",
    "sliced_wasserstein",
    "variational_bound",
]
