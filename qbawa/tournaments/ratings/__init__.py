"""Bradley–Terry ratings from matches: strengths, intervals, rank ranges, what is not yet separable.

`rate` gives the table of ratings, `fit_ratings` the whole fit (covariance, order and length effects),
`bradley_terry` the bare strengths from a matrix of wins.
"""

from qbawa.tournaments.ratings.fit import Effect, RatingFit, fit_ratings, rate
from qbawa.tournaments.ratings.newton import Rating, bradley_terry

__all__ = ["Effect", "Rating", "RatingFit", "bradley_terry", "fit_ratings", "rate"]
