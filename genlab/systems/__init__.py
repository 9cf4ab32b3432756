"""The LightningModules: who steps when, what is logged, which verbs a model answers."""
