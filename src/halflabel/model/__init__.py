"""What travels to the Hub with every saved model: configuration, network, losses, image processor and pipeline."""
