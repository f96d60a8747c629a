"""The demo study: a small trained ViT and the 10,000 Fashion-MNIST test images."""
