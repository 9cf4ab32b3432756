"""Systems: LightningModules that say who steps when, what is logged and which verbs a model
answers.

`base` is the contract. One room a field: gan, latent (codes without an adversary), flow, text. A
room imports training, models, losses and metrics, and no other room; the exception is
`latent.codes`, whose priors GANs and flows draw from, too.
"""
