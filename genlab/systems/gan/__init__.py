"""GANs: generator and discriminator trained in one step, and O-GAN, whose discriminator is an
encoder.
"""
