"""Keys of the JSON that stores keep beside columns: of a study's provenance, and of a trial's attributes."""

from __future__ import annotations

# a study's provenance: what it was told to begin with, ...
START = "start"
# ... what was found out before its first trial, ...
FACTS = "facts"  # all of it, as the `Calibration` that workers take over
HARDWARE = "hardware"
DTYPE, DTYPE_REASON = "dtype", "dtype_reason"
VERSIONS = "versions"  # of packages
WEIGHTS, WEIGHTS_KEY = "fingerprint", "weights_key"
IMAGES = "images"  # their fingerprint
SKIPPED_IMAGES = "skipped_images"
CLASSES = "classes"
INPUT = "input"
PREPROCESSING = "preprocessing"
PROFILE_FROM = "profile_from"
DISTURBED = "disturbed"
PRECISION_GAIN = "precision_gain"  # how many times as fast the unpruned model is at the deployment's precision
# ... and how it ended
CHOSEN = "chosen_fronts"  # versions of the front that are its choice, not what a trial added
FINALISTS_CLOCK = "finalists_clock"  # seconds that timing finalists took, and may take: "seconds", "limit_s"
PREDICTION_ERROR = "prediction_error"  # "profile_error" of older studies is a median that counts the dense model, too
LOGGED = "mlflow"  # which process logs it to an MLflow server: "holder", and "until" when, seconds since 1970
ERROR = "error"  # the fields of the user's error that stopped it

# a trial's user attributes
MEASUREMENT = "measurement"  # all there is to know of one that was measured
BASELINE = "baseline"  # which of the starting schedules it is
REFUSED = "refused"  # why it was over a limit
FAILED = "failed"  # why it was given up on

# a trial's system attributes: what its sampler kept with the proposal
PROBED = "ztp:probed"  # the partial evaluations before it, and how many images it was chosen for

# of a trial in Optuna's mirror alone
TRIAL_NUMBER = "ztp_trial"  # ours: a user attribute
STUDY_ID = "ztp_study"  # ours: a system attribute, for another study may have had the name before
