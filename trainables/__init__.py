"""What happens on one device: data, mixtures, networks, pretraining, probes, and the store of their results.

Never imports `orchestrator`, Ray or MLflow: `run_trial` is an ordinary function that runs on a CPU.
"""
