"""From the predictions of members to answers: blend, decision, finished runs, ensembles."""
