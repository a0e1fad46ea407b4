"""How good a model is: figures and reports from what it predicts and writes."""
