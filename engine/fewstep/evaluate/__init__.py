"""How good samples are: scores of sets of digits beside real ones, and the variational bound of a model."""

from fewstep.evaluate.bound import Bound, variational_bound
from fewstep.evaluate.features import DigitClassifier, load_classifier
from fewstep.evaluate.frechet import Moments, frechet_distance
from fewstep.evaluate.neighbours import nearest
from fewstep.evaluate.precision_recall import Manifold, precision, recall
from fewstep.evaluate.report import Report
from fewstep.evaluate.run import Settings, evaluate, model_bound
from fewstep.evaluate.scores import Judge, Scores
from fewstep.evaluate.sliced_wasserstein import sliced_wasserstein

__all__ = [
    "Bound",
    "DigitClassifier",
    "Judge",
    "Manifold",
    "Moments",
    "Report",
    "Scores",
    "Settings",
    "evaluate",
    "frechet_distance",
    "load_classifier",
    "model_bound",
    "nearest",
    "precision",
    "recall",
    "sliced_wasserstein",
    "variational_bound",
]
