"""GANs, whose generator and discriminator train in one step, and O-GAN, whose discriminator is an
encoder.
"""
