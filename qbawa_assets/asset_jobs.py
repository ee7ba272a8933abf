"""Jobs that materialise assets as they are. Schedules run them; by them the UI finds what makes an asset by itself."""

from dagster import define_asset_job

from qbawa_assets.datasets import qbawa, qbawa_datasets
from qbawa_assets.improvement import champions
from qbawa_assets.recordings import recordings, replay_set
from qbawa_assets.replay import replay_matrix, strategies
from qbawa_assets.sweeps import replay_by_request, replay_by_strategy
from qbawa_assets.tournaments import human_verdicts, judge_reliability, ratings, tournament_brackets

replay_requests = define_asset_job(
    "replay_requests",
    [replay_by_request],
    description="Whole rows of the replay matrix: the requests of the run's partitions.",
)
replay_strategies = define_asset_job(
    "replay_strategies",
    [replay_by_strategy],
    description="Whole columns of the replay matrix: the strategies of the run's partitions.",
)
ingest_recordings = define_asset_job("ingest_recordings", [recordings], description="Take chosen batches in.")
prepare_replay = define_asset_job(
    "prepare_replay",
    [replay_set, strategies],
    description="Choose the requests, declare the strategies; asks no model.",
)
replay_cells = define_asset_job(
    "replay_cells", [replay_matrix], description="Answer the cells of the run's partitions."
)
play_brackets = define_asset_job(
    "play_brackets", [tournament_brackets], description="Play the brackets of the run's partitions."
)
after_judging = define_asset_job(
    "after_judging",
    [human_verdicts, ratings, judge_reliability, qbawa, qbawa_datasets, champions],
    description="Everything that follows from verdicts; asks no model.",
)
