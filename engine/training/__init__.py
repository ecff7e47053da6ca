"""Training of the embedded networks on synthetic faces: pictures, autoencoder, diffusion, directions."""
