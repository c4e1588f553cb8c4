"""What the commands of ``qshower`` do; service.cli holds their flags. Each module is loaded by its command alone."""
