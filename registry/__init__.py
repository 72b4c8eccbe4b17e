"""From a model to a champion: MLflow tracking, the gate, promotion, the ledger, rollback."""

import os

# MLflow reads these when it is first imported. It would report its use to its makers, and draw a bar for every file it
# copies; whoever wants either says so in the environment.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
