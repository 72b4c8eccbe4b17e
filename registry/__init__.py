"""From a model to a champion: MLflow tracking, the gate, promotion, the ledger, rollback."""
